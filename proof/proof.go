// Package proof verifies, offline and without any secret, what an Ostiary log
// says: entries, frames, tree roots, checkpoints, inclusion and consistency,
// and whole copied log directories.
//
// It is what an auditor imports. It holds the published formats (entry,
// sealed payload, frame, segment) and reads the C2SP ones: checkpoint and
// signed note, tiles, tlog-proof. The gateway's own ledger writes and
// recovers through the same functions, so there is one definition of what a
// valid batch is.
//
// What it guarantees: a log that verifies against a checkpoint held outside
// the host has not been changed, reordered, cut or extended at or before that
// checkpoint. Damaged input costs bounded time and memory, and a fault is
// reported with the entry at fault.
//
// What it trusts: the verifier keys it is given. A key found inside the copied
// directory proves only that the copy agrees with itself, and the report says
// so. One machine cannot see that its whole image was rolled back; without a
// checkpoint held elsewhere neither can this package.
//
// See docs/reference/entry-format.md, C2SP tlog-checkpoint, signed-note,
// tlog-tiles and tlog-proof, and RFC 6962.
package proof
