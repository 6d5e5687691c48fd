package ledgertest

import (
	"io"
	"io/fs"
	"path"
	"testing/fstest"
)

// Copy returns the files below dir as a file system for proof.VerifyFS.
func (f *FS) Copy(dir string) fs.FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := fstest.MapFS{}
	for p, x := range f.names {
		if rel, ok := below(dir, p); ok {
			m[rel] = &fstest.MapFile{Data: append([]byte(nil), x.data...)}
		}
	}
	return readerAtFS{m}
}

func below(dir, p string) (string, bool) {
	dir = path.Clean(dir) + "/"
	if len(p) > len(dir) && p[:len(dir)] == dir {
		return p[len(dir):], true
	}
	return "", false
}

// readerAtFS gives the files of a MapFS, which implement it, as io.ReaderAt
// whatever their declared type.
type readerAtFS struct{ fstest.MapFS }

func (r readerAtFS) Open(name string) (fs.File, error) {
	f, err := r.MapFS.Open(name)
	if err != nil {
		return nil, err
	}
	if _, ok := f.(io.ReaderAt); ok {
		return f, nil
	}
	if _, ok := f.(fs.ReadDirFile); ok {
		return f, nil
	}
	return nil, fs.ErrInvalid
}
