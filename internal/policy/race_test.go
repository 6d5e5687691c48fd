//go:build race

package policy

// raced says that the race detector watches: sync.Pool then forgets at random,
// so allocations cannot be counted.
const raced = true
