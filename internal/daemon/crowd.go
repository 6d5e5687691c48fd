package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/ostiary/ostiary/internal/stricthttp"
)

const (
	// keptFiles are the descriptors that no connection may take: segments and
	// their spares, tiles, stores, indexes, the control socket, and the pipes
	// of tool servers that run as processes.
	keptFiles = 512
	// fewestFiles is the least a gateway can work with.
	fewestFiles = 1024
	// mostConnections is enough for every stream that may be open, and the
	// calls beside them; each may cost up to 64 KiB.
	mostConnections = 32768
	// mostStrangers is what one source may hold open without proof of who it
	// is: a machine whose agents all start at once needs a few dozen.
	mostStrangers = 256
	// mostProbes is what may stand at the health address: it asks for no
	// credential, and a few balancers are all who come.
	mostProbes = 64
)

// checkFiles refuses to start where descriptors would run out.
func checkFiles() error {
	if n, err := openFiles(); err != nil || n < fewestFiles {
		return fmt.Errorf("this process may open %d files and needs %d: raise the limit (ulimit -n, or LimitNOFILE= of its systemd unit)", n, fewestFiles)
	}
	return nil
}

func openFiles() (uint64, error) {
	var lim unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim)
	return lim.Cur, err
}

// mostHere is how many connections agents may have to here, and the gateway to
// its tool servers: a call may need one of each, so each gets half of what
// there is.
func mostHere() int {
	n, _ := openFiles() // it was read at start, and nothing lowers it
	if n <= keptFiles {
		return 0
	}
	return int(min((n-keptFiles)/2, mostConnections))
}

// crowd is the connections of both ports together. One source cannot take all
// of them, whoever it is.
func (d *Daemon) crowd(refused func(source, code string)) *stricthttp.Crowd {
	total := mostHere()
	return &stricthttp.Crowd{Total: total, Source: total / 2, Strangers: min(mostStrangers, total/4), Refused: refused}
}
