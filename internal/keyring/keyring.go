// Package keyring keeps this deployment's own private keys in a directory.
//
// It guarantees that a key is made once, is on disk before it is used, and is
// the same for every process that opens the directory, even if two make it at
// the same moment; that a directory or file which others than its owner can
// reach is refused, not repaired; and that a name always means the same kind
// of key.
//
// It trusts the operating system's file permissions, the file system's fsync,
// and crypto/rand. It does not encrypt keys at rest, does not say which key
// follows which (package rotation does), and cannot undo what a reader with the same user id does: that user is the
// deployment. Keys are PKCS #8 (RFC 5208) and raw AES keys in PEM (RFC 7468).
package keyring

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/ostiary/ostiary"
)

// maxFile is the largest key file read: keys are below 1 KiB, so anything
// bigger is no key.
const maxFile = 16 << 10

const (
	privateBlock = "PRIVATE KEY"
	aesBlock     = "OSTIARY AES-256 KEY"
)

// Ring is an open directory of keys. It is safe for concurrent use.
type Ring struct {
	path string
	root *os.Root
	mu   sync.Mutex // one key is made or read at a time
}

// Open opens the directory, making it with mode 0700 if only its last element
// is missing. It is an error of kind Corrupt if others than its owner have any
// right to it or it belongs to another user.
func Open(dir string) (*Ring, error) {
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return nil, failed(dir, err)
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, failed(dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, failed(dir, err)
	}
	info, err := root.Stat(".")
	if err == nil {
		err = private(dir, info)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &Ring{path: dir, root: root}, nil
}

// Close closes the directory. Keys handed out stay good.
func (r *Ring) Close() error { return r.root.Close() }

// ECDSA returns the P-256 key of that name, making it the first time.
func (r *Ring) ECDSA(name string) (*ecdsa.PrivateKey, error) {
	key, err := r.private(name, func() (crypto.PrivateKey, error) {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	})
	if err != nil {
		return nil, err
	}
	if k, ok := key.(*ecdsa.PrivateKey); ok && k.Curve == elliptic.P256() {
		return k, nil
	}
	return nil, r.corrupt(name, "it is no P-256 key")
}

// Ed25519 returns the Ed25519 key of that name, making it the first time.
func (r *Ring) Ed25519(name string) (ed25519.PrivateKey, error) {
	key, err := r.private(name, func() (crypto.PrivateKey, error) {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	})
	if err != nil {
		return nil, err
	}
	if k, ok := key.(ed25519.PrivateKey); ok {
		return k, nil
	}
	return nil, r.corrupt(name, "it is no Ed25519 key")
}

// AEAD seals small values that leave this process and come back: states,
// rows, tokens. The associated data must say what the value is and where it
// belongs, so that one cannot stand in for another. Both methods are safe for
// concurrent use.
type AEAD interface {
	// Seal returns a random nonce and the sealed text in a new slice.
	Seal(plain, ad []byte) ([]byte, error)
	// Open returns the plain text in a new slice, or an error of kind
	// Corrupt if anything does not fit. It never says what.
	Open(sealed, ad []byte) ([]byte, error)
}

// AEAD returns AES-256-GCM under the key of that name, making it the first
// time. Nonces are random, so one key is for at most 2^32 values (NIST SP
// 800-38D, section 8.3).
func (r *Ring) AEAD(name string) (AEAD, error) {
	block, err := r.load(name, func() (*pem.Block, error) {
		key := make([]byte, 32)
		_, err := rand.Read(key)
		return &pem.Block{Type: aesBlock, Bytes: key}, err
	})
	if err != nil {
		return nil, err
	}
	if block.Type != aesBlock || len(block.Bytes) != 32 {
		return nil, r.corrupt(name, "it is no AES-256 key")
	}
	c, err := aes.NewCipher(block.Bytes)
	if err != nil {
		return nil, failed(name, err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(c)
	if err != nil {
		return nil, failed(name, err)
	}
	return sealer{gcm}, nil
}

type sealer struct{ gcm cipher.AEAD }

func (s sealer) Seal(plain, ad []byte) ([]byte, error) {
	return s.gcm.Seal(nil, nil, plain, ad), nil
}

func (s sealer) Open(sealed, ad []byte) ([]byte, error) {
	plain, err := s.gcm.Open(nil, nil, sealed, ad)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Corrupt, "sealed", "the sealed value does not open").Because(err)
	}
	return plain, nil
}

// Has reports whether there is a key of that name. One that cannot be looked
// at is not there.
func (r *Ring) Has(name string) bool {
	if !validName(name) {
		return false
	}
	_, err := r.root.Lstat(file(name))
	return err == nil
}

// Destroy removes a key for good; one that is not there is removed already.
// What lies on the device until it is written over is the device's.
func (r *Ring) Destroy(name string) error {
	if !validName(name) {
		return ostiary.Errorf(ostiary.Malformed, "key_name", "a key's name has 1 to 64 of a-z, 0-9 and dash")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.root.Remove(file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed(name, err)
	}
	d, err := r.root.Open(".")
	if err != nil {
		return failed(name, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return failed(name, err)
	}
	return nil
}

func (r *Ring) private(name string, generate func() (crypto.PrivateKey, error)) (crypto.PrivateKey, error) {
	block, err := r.load(name, func() (*pem.Block, error) {
		key, err := generate()
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return &pem.Block{Type: privateBlock, Bytes: der}, err
	})
	if err != nil {
		return nil, err
	}
	if block.Type != privateBlock {
		return nil, r.corrupt(name, "it is no private key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, r.corrupt(name, "it cannot be parsed").Because(err)
	}
	return key, nil
}

// load reads the key's file, or makes it. What it returns was read from the
// file, also for the process that made it.
func (r *Ring) load(name string, generate func() (*pem.Block, error)) (*pem.Block, error) {
	if !validName(name) {
		return nil, ostiary.Errorf(ostiary.Malformed, "key_name", "a key's name has 1 to 64 of a-z, 0-9 and dash")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	block, err := r.read(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return block, err
	}
	if block, err = generate(); err != nil {
		return nil, failed(name, err)
	}
	if err := r.create(name, pem.EncodeToMemory(block)); err != nil {
		return nil, failed(name, err)
	}
	return r.read(name)
}

func (r *Ring) read(name string) (*pem.Block, error) {
	// Looked at before it is opened: opening a pipe would wait, and a link
	// would lead to a file with a life of its own. Nobody but the owner can
	// exchange it in between.
	info, err := r.root.Lstat(file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, failed(name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, r.corrupt(name, "it is no regular file")
	}
	if err := private(filepath.Join(r.path, file(name)), info); err != nil {
		return nil, err
	}
	f, err := r.root.Open(file(name))
	if err != nil {
		return nil, failed(name, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, failed(name, err)
	}
	block, rest := pem.Decode(text)
	if block == nil || len(rest) != 0 || len(block.Headers) != 0 || len(text) > maxFile {
		return nil, r.corrupt(name, "it does not hold exactly one key")
	}
	return block, nil
}

// create puts the text under the name if nothing is there. A whole, flushed
// file appears under its name or none does; of several makers one wins and
// the others see that nothing needs doing.
func (r *Ring) create(name string, text []byte) (err error) {
	var salt [8]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return err
	}
	temp := "." + name + "-" + hex.EncodeToString(salt[:]) + ".tmp"
	f, err := r.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.root.Remove(temp)) }()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, never replaces what is there.
	if err := r.root.Link(temp, file(name)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := r.root.Open(".")
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

func (r *Ring) corrupt(name, why string) *ostiary.Error {
	return ostiary.Errorf(ostiary.Corrupt, "key", "the key %q in %s is not usable: %s", name, r.path, why).At(name)
}

func failed(name string, err error) *ostiary.Error {
	return ostiary.Errorf(ostiary.Unavailable, "keyring", "the key or directory %s cannot be read or made", name).At(name).Because(err)
}

// private refuses what others than the owner, or another owner, can reach.
func private(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o077 != 0 {
		return ostiary.Errorf(ostiary.Corrupt, "permissions", "%s is open to others (mode %04o): only its owner may have rights on it", path, info.Mode().Perm()).At(path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return ostiary.Errorf(ostiary.Corrupt, "permissions", "%s belongs to user %d, not to this process's", path, st.Uid).At(path)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

func file(name string) string { return name + ".pem" }

func validName(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}
