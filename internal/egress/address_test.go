package egress

import (
	"context"
	"errors"
	"net/netip"
	"net/url"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

func TestG01Addresses(t *testing.T) {
	u, _ := url.Parse("https://tools.example/")
	public, err := newAddresses(u, nil)
	if err != nil {
		t.Fatal(err)
	}
	for a, why := range map[string]string{
		"64:ff9b::a9fe:a9fe": "NAT64", "64:ff9b:1::a00:1": "local NAT64", "2002:a9fe:a9fe::1": "6to4", "::127.0.0.1": "IPv4-compatible", "::1": "loopback", "::": "unspecified",
		"fec0::1": "site-local", "fe80::1": "link-local", "fe80::1%eth0": "zone", "2a00::1%eth0": "zone", "fd00:ec2::254": "metadata", "fd12:3456::1": "ULA", "ff02::1": "multicast",
		"2001::1": "Teredo", "2001:10::1": "ORCHID", "2001:20::1": "ORCHIDv2", "2001:db8::1": "documentation", "3fff::1": "documentation", "5f00::1": "SRv6", "100::1": "discard", "4000::1": "unallocated",
		"::ffff:169.254.169.254": "mapped", "::ffff:127.0.0.1": "mapped", "::ffff:10.0.0.1": "mapped", "::ffff:0:7f00:1": "translated",
		"100.100.100.200": "carrier-grade", "100.64.0.1": "carrier-grade", "100.127.255.255": "carrier-grade", "192.0.0.192": "Oracle metadata", "192.0.0.8": "protocol", "192.0.2.1": "documentation",
		"168.63.129.16": "Azure", "198.18.0.1": "benchmark", "198.19.255.255": "benchmark", "198.51.100.1": "documentation", "203.0.113.9": "documentation", "240.0.0.1": "reserved", "255.255.255.255": "broadcast",
		"0.0.0.0": "this host", "0.1.2.3": "this network", "127.0.0.1": "loopback", "127.255.255.254": "loopback", "10.0.0.1": "private", "172.16.0.1": "private", "172.31.255.255": "private", "192.168.1.1": "private",
		"169.254.169.254": "metadata", "169.254.0.1": "link-local", "224.0.0.1": "multicast", "239.255.255.255": "multicast", "192.88.99.1": "6to4 relay",
	} {
		if err := public.check(netip.MustParseAddr(a)); err == nil {
			t.Errorf("G01 %s (%s) is allowed", a, why)
		}
	}
	for _, a := range []string{"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.0.1.1", "192.167.255.255", "198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "::ffff:8.8.8.8"} {
		if err := public.check(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s is refused: %v", a, err)
		}
	}
	if err := (&addresses{}).check(netip.MustParseAddr("8.8.8.8")); err == nil {
		t.Error("B11 the zero value allows an address")
	}
}

func TestAddressTable(t *testing.T) {
	var last netip.Addr
	for _, s := range publicSpace() {
		if s.first.Compare(s.last) > 0 || last.IsValid() && last.Compare(s.first) >= 0 || s.first.Is4() != s.last.Is4() {
			t.Errorf("%v is out of order", s)
		}
		last = s.last
	}
}

func TestExceptions(t *testing.T) {
	for _, c := range []struct {
		url     string
		allow   []string
		ok, not []string
		refused bool
	}{
		{url: "https://tools.internal/", allow: []string{"10.1.0.0/16"}, ok: []string{"10.1.2.3", "8.8.8.8"}, not: []string{"10.2.0.1", "127.0.0.1", "169.254.169.254"}},
		{url: "http://localhost:1/", allow: []string{"localhost"}, ok: []string{"127.0.0.1", "::1", "10.0.0.1"}, not: []string{"8.8.8.8", "169.254.169.254", "fe80::1", "100.100.100.200", "fd00:ec2::254"}},
		{url: "http://127.0.0.1:1/", allow: []string{"127.0.0.1"}, ok: []string{"127.0.0.1", "::ffff:127.0.0.1"}, not: []string{"127.0.0.2", "8.8.8.8"}},
		{url: "http://[::1]:1/", allow: []string{"::1"}, ok: []string{"::1"}, not: []string{"127.0.0.1"}},
		{url: "https://x/", allow: []string{"100.64.0.0/10"}, ok: []string{"100.64.0.1"}, not: []string{"100.100.100.200"}},
		{url: "https://x/", allow: []string{"fd00::/8"}, ok: []string{"fd01::1"}, not: []string{"fd00:ec2::254"}},
		{url: "http://tools.example/", refused: true},
		{url: "https://x/", allow: []string{"169.254.169.254"}, refused: true},
		{url: "https://x/", allow: []string{"0.0.0.0/0"}, refused: true},
		{url: "https://x/", allow: []string{"8.8.8.8"}, refused: true},
		{url: "https://x/", allow: []string{"10.0.0.1/8"}, refused: true},
		{url: "https://x/", allow: []string{"other.host"}, refused: true},
		{url: "https://x/", allow: []string{"fe80::1%eth0"}, refused: true},
		{url: "https://x/", allow: []string{""}, refused: true},
	} {
		u, _ := url.Parse(c.url)
		p, err := newAddresses(u, c.allow)
		if (err != nil) != c.refused {
			t.Errorf("%s %q: %v", c.url, c.allow, err)
			continue
		}
		if err != nil {
			continue
		}
		for _, a := range c.ok {
			if err := p.check(netip.MustParseAddr(a)); err != nil {
				t.Errorf("%s %q: %v", c.url, c.allow, err)
			}
		}
		for _, a := range c.not {
			if err := p.check(netip.MustParseAddr(a)); err == nil {
				t.Errorf("%s %q allows %s", c.url, c.allow, a)
			}
		}
	}
}

func TestG02G05D11ParseURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://Tools.Example":            "https://tools.example/",
		"https://tools.example:443/mcp":    "https://tools.example/mcp",
		"http://localhost:80/mcp":          "http://localhost/mcp",
		"http://my_service:8080/mcp":       "http://my_service:8080/mcp",
		"https://[2606:4700::1111]:8443/x": "https://[2606:4700::1111]:8443/x",
		"https://1.2.3.4/":                 "https://1.2.3.4/",
		"https://1password.example/a%2Fb":  "https://1password.example/a%2Fb",
		"https://x.y/a//b/../c":            "https://x.y/a//b/../c",
	} {
		u, err := ParseURL(in)
		if err != nil || u.String() != want {
			t.Errorf("%s: %v %v, want %s", in, u, err, want)
		}
	}
	for _, in := range []string{
		// G02 spellings that some resolver reads as an address
		"http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://0/", "http://2852039166/", "http://0x7f.1/", "http://127.0.0.0x1/", "http://1.2.3.4.5/", "http://127.0.0.1./", "http://256.1.1.1/", "http://a.0x1/", "http://[::ffff:127.0.0.1%25lo]/", "http://[fe80::1%25eth0]/", "http://[1.2.3.4]/",
		// G05 schemes
		"file:///etc/passwd", "unix:///run/x", "gopher://x/", "ftp://x/", "data:text/plain,x", "javascript:alert(1)", "//x/", "x", "",
		// D11 hosts
		"https://user@x/", "https://user:pw@x/", "https://x?y", "https://x/?q=1", "https://x/#f", "https://x/#", "https://x/?", "https://x y/", "https://x\\y/", "https://x%2ey/", "https://bücher.example/", "https://x./", "https://.x/", "https://x..y/", "https://:80/", "https://x:/", "https://x:080/", "https://x:99999999/", "https:x", "https:///x", "https://x,y/", "https://x@y/", "https://x/\r\nHost: y", "https://x/\x00",
	} {
		if u, err := ParseURL(in); err == nil {
			t.Errorf("%q is accepted as %v", in, u)
		}
	}
}

// G03: the address that was checked is the address that is dialled, and one
// bad answer refuses the name.
func TestG03Resolve(t *testing.T) {
	u, _ := url.Parse("https://tools.example/")
	allow, _ := newAddresses(u, nil)
	for name, c := range map[string]struct {
		answers []string
		ok      bool
	}{
		"G03 public":             {[]string{"8.8.8.8", "2606:4700::1111"}, true},
		"G03 mixed A records":    {[]string{"8.8.8.8", "127.0.0.1"}, false},
		"G03 AAAA only internal": {[]string{"fd00::1"}, false},
		"G03 mapped":             {[]string{"::ffff:10.0.0.1"}, false},
		"G03 none":               {nil, false},
	} {
		d := newDialer(allow)
		d.lookup = func(context.Context, string) ([]netip.Addr, error) {
			var out []netip.Addr
			for _, a := range c.answers {
				out = append(out, netip.MustParseAddr(a))
			}
			return out, nil
		}
		_, err := d.resolve(t.Context(), "tools.example")
		if (err == nil) != c.ok || err != nil && !errors.Is(err, gate.ErrNotSent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The last look, at the socket itself.
	d := newDialer(allow)
	for _, a := range []string{"127.0.0.1:80", "[::1]:80", "[::ffff:10.0.0.1]:80", "[fe80::1%lo]:80", "nonsense"} {
		if err := d.control(t.Context(), "tcp", a, nil); err == nil {
			t.Errorf("control allows %s", a)
		}
	}
	if _, err := d.dial(t.Context(), "tcp", "127.0.0.1:9"); ostiary.AsError(err).Code != "address_refused" {
		t.Errorf("dial of a literal: %v", err)
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"https://tools.example/mcp", "http://127.0.0.1:8080", "https://[::1]/", "http://0x7f.1/", "https://x%00/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURL(s)
		if err != nil {
			return
		}
		again, err := ParseURL(u.String())
		if err != nil || again.String() != u.String() {
			t.Errorf("%q becomes %q, then %v %v", s, u, again, err)
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && a.Zone() != "" {
			t.Errorf("%q has a zone", s)
		}
	})
}
