package proof_test

import (
	"crypto/ed25519"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ostiary/ostiary/proof"
)

// A log operator signs a checkpoint; whoever holds the verifier key opens it,
// and checks an entry's inclusion under it.
func ExampleOpenCheckpoint() {
	signer, err := proof.NewSigner("acme/gw1/2026-11", ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		fmt.Println(err)
		return
	}
	entry := []byte("the bytes of an entry")
	c := proof.Checkpoint{Origin: "acme/gw1/2026-11", Size: 1, Root: proof.LeafHash(entry)}
	sig, err := signer.Sign([]byte(c.Text()))
	if err != nil {
		fmt.Println(err)
		return
	}

	held, err := proof.OpenCheckpoint(signer.Note(c, sig), signer.VerifierKey())
	fmt.Println(held.Origin, held.Size, err)
	fmt.Println(proof.CheckInclusion(held, 0, entry, []tlog.Hash{}))
	fmt.Println(proof.CheckInclusion(held, 0, []byte("other bytes"), nil) != nil)
	// Output:
	// acme/gw1/2026-11 1 <nil>
	// <nil>
	// true
}
