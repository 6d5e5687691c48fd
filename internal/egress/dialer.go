package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

const (
	// maxAddresses bounds the answers of one name that are looked at; a name
	// with more is a trap or a mistake.
	maxAddresses = 32
	// resolveTimeout bounds one name look-up.
	resolveTimeout = 5 * time.Second
	// dialTimeout bounds one attempt to connect to one address.
	dialTimeout = 5 * time.Second
)

// dialer is the only thing in the product that opens connections, one for
// each policy of addresses. It resolves, checks every answer, dials the
// address it checked, and checks again the one the socket is about to use.
type dialer struct {
	allow  addresses
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	base   net.Dialer
}

func newDialer(allow addresses) *dialer {
	d := &dialer{allow: allow, lookup: lookup}
	d.base = net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second, ControlContext: d.control}
	return d
}

// lookup uses the resolver written in Go on every build: others accept more
// spellings of an address than we checked.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true}
	return r.LookupNetIP(ctx, "ip", host)
}

// dial connects to "host:port". Every error means that nothing was sent.
func (d *dialer) dial(ctx context.Context, _, hostport string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, unreachable(err)
	}
	addrs, err := d.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var last error
	for _, a := range addrs {
		c, err := d.base.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), port))
		if err == nil {
			return c, nil
		}
		if last = err; ctx.Err() != nil {
			break
		}
	}
	return nil, unreachable(last)
}

// resolve returns the checked addresses of a host. One forbidden answer among
// several refuses the name: an honest zone does not mix them.
func (d *dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, notSent(d.allow.check(a))
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := d.lookup(ctx, host)
	if err != nil {
		return nil, unreachable(err)
	}
	if len(addrs) == 0 || len(addrs) > maxAddresses {
		return nil, notSent(ostiary.Errorf(ostiary.Upstream, "address_refused", "the server's name has no usable number of addresses"))
	}
	for i, a := range addrs {
		if err := d.allow.check(a); err != nil {
			return nil, notSent(err)
		}
		addrs[i] = a.Unmap()
	}
	return addrs, nil
}

// control runs on the socket just before it connects.
func (d *dialer) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return d.allow.check(ap.Addr())
}

func unreachable(cause error) error {
	return notSent(ostiary.Errorf(ostiary.Upstream, "unreachable", "the server cannot be reached").Because(cause))
}

// notSent marks err as one before which no byte of the call left.
func notSent(err error) error {
	if err == nil || errors.Is(err, gate.ErrNotSent) {
		return err
	}
	e := *ostiary.AsError(err)
	e.Err = &unsent{e.Err}
	return &e
}

type unsent struct{ cause error }

func (u *unsent) Error() string {
	if u.cause == nil {
		return gate.ErrNotSent.Error()
	}
	return gate.ErrNotSent.Error() + ": " + u.cause.Error()
}
func (u *unsent) Is(target error) bool { return target == gate.ErrNotSent }
func (u *unsent) Unwrap() error        { return u.cause }
