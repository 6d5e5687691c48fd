package ostiary

import "slices"

// provenanceCodes are what can be wrong with saying where values come from.
func provenanceCodes() []Code {
	const mend = "Mend labels.yaml: the text says which entry and what to write."
	return slices.Concat(
		of(Malformed, mend, "labels", "the file of labels does not say what it should"),
		of(Malformed, "Name a file that holds the tools a server offers.", "from_schema", "the file holds no list of tools"),
		of(NotFound, "Accept the tools of a server first: ostiary tools pin.", "no_tools", "there are no tools to label"),
	)
}
