package ostiary

import "slices"

// approvalCodes are what can be wrong with asking people.
func approvalCodes() []Code {
	const agent = "Nothing was sent. Ask again if it is still wanted: the call is held anew."
	const person = "Somebody else must decide, or nobody: ostiary approvals shows who may."
	const look = "Look at the held action again: ostiary approvals."
	return slices.Concat(
		of(Denied, agent,
			"approval_bytes", "what would be executed is not what people consented to",
			"approval_expired", "the consent was not used in time",
			"approval_facts", "policy asks for another consent than when the call was held",
			"approval_policy", "the policies changed after the call was held",
			"approval_state", "people have not consented to this",
			"approval_withdrawn", "somebody who consented may not any more",
		),
		of(Conflict, agent, "approval_policy", "the policies changed after the call was held", "approval_spent", "the consent was used already"),
		of(Denied, "Read the reason, and ask for something else.", "refused_by_person", "a person refused the held call"),
		of(Denied, "Ask again if it is still wanted.", "hold_expired", "nobody decided in time, which refuses"),
		of(Conflict, look, "hold_decided", "the held action was decided already", "hold_expired", "the held action's time is over", "hold_moved", "others decide on the same held action just now",
			"hold_ambiguous", "several held actions begin with what was written", "voted", "this person voted already, perhaps with another account",
			"vote_question", "the vote is on something else than what is held", "vote_stale", "the vote was begun too long ago"),
		of(Denied, person, "approver_group", "the person is not in the group that policy names", "approver_mandate", "the agent's mandate names others who may approve",
			"approver_not_principal", "only the person the agent acts for can supply this", "approver_owner", "the agent is the person's own, or of somebody they share a key or an account with",
			"approver_requester", "it is asked on the person's own authority, or on that of somebody they share a key or an account with", "approver_role", "the person does not have the role of an approver",
			"approver_unknown", "there is no such person", "vote_key", "the key that signed is not one of the person's"),
		of(Unauthenticated, "Sign again with a key that is registered for you.", "vote_signature", "the signature of a vote does not verify"),
		of(Denied, "Ask an operator: approvals.groups says who may consent to what.", "not_holdable", "nobody here could supply what policy asks for"),
		of(Exhausted, "Wait until people have decided.", "ask_rate", "people are asked for consent too often", "holds", "too many calls of the agent wait for people", "votes", "too many votes were cast on one held action"),
		of(Malformed, "Mend what was asked; the text says how it is written.",
			"hold", "a held action needs an id, an agent and a state", "hold_size", "a part of a held action is too large to keep", "narrowing", "an edit is no narrowing: lower a number, or drop an element or a member",
			"remedy", "a fact that no person can supply", "state", "it is no state of a held action", "vote", "it is no vote, or not written as one"),
		of(NotFound, "Look at the id: ostiary approvals. Only who asked can fetch a result.", "hold", "there is no such held action", "result_gone", "the result is not kept any more", "result_long", "the result was too long to be kept; the call was carried out"),
		of(Denied, "Ask an operator: ostiary person invite NAME gives them a link that adds a passkey.", "no_passkey", "the person has no passkey to sign a vote with"),
		of(Conflict, look, "person_key", "somebody has this key already, and a key is one person's"),
		of(NotFound, "Look at the key's name: ostiary person list --json.", "person_key", "the person has no such key"),
		of(Malformed, "Make one with: ostiary person key NAME.", "person_key", "a key is not of a kind with which people vote"),
		of(Exhausted, "Drop a key that is not used any more.", "person_keys", "the person has as many keys as one may have"),
		of(Upstream, "Ask the server before repeating what must not happen twice.", "hold_unknown", "the gateway stopped while the action was carried out"),
		of(Unavailable, "Try again.", "no_decision", "policy gives no answer now"),
		of(Corrupt, "Do not sign. Compare with another copy of the program, on another machine.", "vote_question", "what is to be signed is not what is shown"),
		of(Corrupt, "Do not trust the store; compare with a backup.", "stored_call", "a stored call cannot be read", "stored_hold", "a stored held action cannot be read"),
		of(Internal, "Report it with the entry and the gateway's log: it is a bug of ours. Nothing was permitted by it.", "approval_astray", "a consent was used for another call", "approval_intent", "a consent was spent for no intent",
			"consent_failed", "the step failed with an error that nobody classified", "consent_panic", "the step panicked and was stopped",
			"spend_failed", "the step failed with an error that nobody classified", "spend_panic", "the step panicked and was stopped"),
		of(Unavailable, "Try again; give the call more time.", "consent_timeout", "the step did not end within the caller's time", "spend_timeout", "the step did not end within the caller's time"),
	)
}
