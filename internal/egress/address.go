package egress

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ostiary/ostiary"
)

// span is a run of addresses, both ends included.
type span struct{ first, last netip.Addr }

func spanOf(first, last string) span {
	return span{netip.MustParseAddr(first), netip.MustParseAddr(last)}
}

func (s span) holds(a netip.Addr) bool {
	return s.first.Compare(a) <= 0 && a.Compare(s.last) <= 0
}

// publicSpace returns what counts as public, sorted: an allow list, so that
// what nobody thought of is refused. It is the IANA special-purpose registries
// turned inside out, less the addresses at which clouds serve metadata from
// inside public space (168.63.129.16), less whatever carries another address
// inside it (NAT64, 6to4, Teredo, IPv4-compatible and -mapped).
func publicSpace() []span {
	return []span{
		spanOf("1.0.0.0", "9.255.255.255"),
		spanOf("11.0.0.0", "100.63.255.255"),
		spanOf("100.128.0.0", "126.255.255.255"),
		spanOf("128.0.0.0", "168.63.129.15"),
		spanOf("168.63.129.17", "169.253.255.255"),
		spanOf("169.255.0.0", "172.15.255.255"),
		spanOf("172.32.0.0", "191.255.255.255"),
		spanOf("192.0.1.0", "192.0.1.255"),
		spanOf("192.0.3.0", "192.31.195.255"),
		spanOf("192.31.197.0", "192.52.192.255"),
		spanOf("192.52.194.0", "192.88.98.255"),
		spanOf("192.88.100.0", "192.167.255.255"),
		spanOf("192.169.0.0", "192.175.47.255"),
		spanOf("192.175.49.0", "198.17.255.255"),
		spanOf("198.20.0.0", "198.51.99.255"),
		spanOf("198.51.101.0", "203.0.112.255"),
		spanOf("203.0.114.0", "223.255.255.255"),
		spanOf("2001:200::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"),
		spanOf("2001:db9::", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
		spanOf("2003::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
	}
}

// exceptionSpace returns where an operator may open an exception for one
// server: loopback and private networks. Link-local space, where metadata
// services live, is never opened.
func exceptionSpace() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7"),
	}
}

// neverOpened are metadata services inside exceptionSpace.
func neverOpened() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("fd00:ec2::254")}
}

// addresses decides which addresses one server may have. The zero value
// allows none.
type addresses struct {
	public     []span         // empty for plain HTTP, which never leaves private networks
	exceptions []netip.Prefix // the operator's, within exceptionSpace
	never      []netip.Addr
}

// check reports why a may not be dialled. a is what is dialled, so nothing is
// resolved after it.
func (p *addresses) check(a netip.Addr) error {
	refuse := func(why string) error {
		return ostiary.Errorf(ostiary.Upstream, "address_refused", "the server's address is not allowed").Because(&addressError{a, why})
	}
	if a.Zone() != "" {
		return refuse("it has a zone id")
	}
	a = a.Unmap() // a mapped address is judged as what it reaches
	if slices.Contains(p.never, a) {
		return refuse("metadata services are never reached")
	}
	for _, e := range p.exceptions {
		if e.Contains(a) {
			return nil
		}
	}
	for _, s := range p.public {
		if s.first.Is4() == a.Is4() && s.holds(a) {
			return nil
		}
	}
	return refuse("it is neither public nor an exception of this server")
}

type addressError struct {
	addr netip.Addr
	why  string
}

func (e *addressError) Error() string { return e.addr.String() + ": " + e.why }

// newAddresses reads a server's exceptions: addresses, CIDR prefixes, or the
// exact host of its URL, which opens loopback and private space for that name.
func newAddresses(u *url.URL, allow []string) (addresses, error) {
	p := addresses{never: neverOpened()}
	if u.Scheme == "https" {
		p.public = publicSpace()
	}
	for _, s := range allow {
		if s == u.Hostname() {
			if _, err := netip.ParseAddr(s); err != nil {
				p.exceptions = append(p.exceptions, exceptionSpace()...)
				continue
			}
		}
		pre, err := parsePrefix(s)
		if err != nil {
			return p, ostiary.Errorf(ostiary.Malformed, "allow_private", "%q is neither an address, a CIDR prefix, nor the host of the server's URL", s).At("allow_private")
		}
		if !slices.ContainsFunc(exceptionSpace(), func(e netip.Prefix) bool { return e.Bits() <= pre.Bits() && e.Contains(pre.Addr()) }) {
			return p, ostiary.Errorf(ostiary.Malformed, "allow_private", "%q is not loopback or private space; exceptions can open nothing else", s).At("allow_private")
		}
		p.exceptions = append(p.exceptions, pre)
	}
	if u.Scheme == "http" && len(p.exceptions) == 0 {
		return p, ostiary.Errorf(ostiary.Malformed, "plain_http", "plain http is for loopback and private servers that are named in allow_private; use https").At("url")
	}
	return p, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, err
	}
	if p != p.Masked() || p.Addr().Is4In6() {
		return p, ostiary.Errorf(ostiary.Malformed, "allow_private", "%q has bits set outside its mask", s)
	}
	return p, nil
}

// ParseURL accepts the address of a remote server, strictly: http or https, a
// host spelled the one usual way, no credentials, query or fragment. Odd
// spellings of addresses, which resolvers read differently, are refused. The
// result is in normal form: lower-case host, no default port, a path.
func ParseURL(s string) (*url.URL, error) {
	fail := func(why string) (*url.URL, error) {
		return nil, ostiary.Errorf(ostiary.Malformed, "url", "%q is not usable as a server's address: %s", s, why).At("url")
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '\\' {
			return fail("it holds a space, control, backslash or non-ASCII character")
		}
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fail("it cannot be parsed")
	case u.Scheme != "http" && u.Scheme != "https":
		return fail("the scheme must be http or https")
	case u.Opaque != "" || u.Host == "":
		return fail("it has no host")
	case u.User != nil:
		return fail("credentials do not belong in a URL; use bearer_file")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(s, "#"):
		return fail("it has a query or a fragment")
	}
	u.Host = strings.ToLower(u.Host)
	if why := oddHost(u.Hostname(), strings.HasPrefix(u.Host, "[")); why != "" {
		return fail(why)
	}
	port := u.Port()
	if n, err := strconv.ParseUint(port, 10, 16); strings.HasSuffix(u.Host, ":") || port != "" && (err != nil || n == 0 || port[0] == '0') {
		return fail("its port is not a number from 1 to 65535")
	}
	if u.Scheme == "http" && port == "80" || u.Scheme == "https" && port == "443" {
		u.Host = strings.TrimSuffix(u.Host, ":"+port)
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return u, nil
}

// oddHost says what is unusual about a host. Anything that some resolver
// would read as an IPv4 address must be the four plain decimal numbers.
func oddHost(host string, bracketed bool) string {
	if bracketed {
		a, err := netip.ParseAddr(host)
		if err != nil || !a.Is6() || a.Zone() != "" {
			return "its host is not an IPv6 address without a zone"
		}
		return ""
	}
	if host == "" || len(host) > 253 {
		return "its host is empty or too long"
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is4() && a.String() == host {
		return ""
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 {
			return "its host has an empty or overlong label"
		}
		for i := range len(l) {
			if c := l[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return "its host may hold only letters, digits, dots, dashes and underscores"
			}
		}
	}
	last := labels[len(labels)-1]
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return "its host is an unusual spelling of an address"
	}
	return ""
}
