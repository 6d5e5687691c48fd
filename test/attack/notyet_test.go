package attack

// notYet are the threats to what does not exist yet, and those that no test of
// this repository can show, each with its reason.
var notYet = map[string]string{
	"C08": "needs to know whose a row of a result is",
	"C10": "nothing here starts containers",

	"G07": "there is no door for HTTP APIs; a tool server's URL is the operator's and holds no template",

	"I05": "the console shows no held actions yet", "I09": "there is no standing consent: each is for one action",
	"I10": "nothing is redacted for approvers: they see the bytes that are bound",

	"J07": "no agents are called", "J08": "no agents are called",

	"L03": "the control side is inside each gateway, so it cannot be away from it",

	"M08": "nothing is exported: whoever wants the log copies its files, and tells by them how far they go",

	"N01": "there is no risk engine", "N02": "there is no risk engine", "N03": "there is no risk engine", "N04": "there is no risk engine",
	"N05": "there is no risk engine", "N06": "there is no risk engine", "N07": "there is no risk engine",

	"O09": "sign-in asks for no name: there is none to tell known from unknown by",

	"P01": "stdio servers have no sandbox: a root is theirs to keep", "P02": "stdio servers have no sandbox",
	"P04": "stdio servers have no sandbox", "P05": "the gateway makes no argument of a command from anything an agent says",
	"P06": "stdio servers have no sandbox", "P07": "stdio servers have no sandbox",

	"Q07": "secrets are looked up by their hash or proven by a signature; a time measured on a shared machine would prove nothing",

	"R08": "how others fare under a flood of handshakes is a figure, which needs cores of its own to be measured",
	"R10": "needs a memory control group of its own, which a test may not make",

	"S03": "nothing is released", "S04": "nothing is released",
	"S05": "there are no default credentials: every key is made at the first start",
	"S07": "each step of a migration is one transaction, and there is no older release to come from",
	"S09": "capabilities of dependencies are not compared by a tool",
}
