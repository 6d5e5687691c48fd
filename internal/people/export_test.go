package people

// ScanIDToken and ScanAnswer are the parsers of foreign bytes, for fuzzing.
func ScanIDToken(text string) { payload(text) }

func ScanAnswer(answer []byte) {
	readRegistration(answer)
	readAssertion(answer)
}
