package attacks

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/astravue/mcp-client-go/internal/oauthhttp"
)

var guardsAttacks = guardsRows()

func guardsRows() (rows []attack) {
	const (
		server = "https://server.example/mcp"
		who    = "a hostile public MCP server"
		gains  = "requests with a path of its choice to hosts of the user's own network"
	)
	// reach asks for the address as a document of the server would have it asked for.
	reach := func(t *testing.T, hc *http.Client, address string) error {
		return oauthhttp.GetJSON(t.Context(), hc, address, &struct{}{})
	}

	// Each address, as itself and behind a name.
	for _, r := range []struct{ id, address, what string }{
		{"loopback", "127.0.0.1", "loopback"},
		{"loopback-other", "127.255.255.254", "the far end of loopback"},
		{"unspecified", "0.0.0.0", "no address, which is this machine"},
		{"this-network", "0.1.2.3", "this network"},
		{"ten", "10.0.0.5", "a private network"},
		{"ten-last", "10.255.255.255", "the last address of a private network"},
		{"one-seven-two", "172.16.0.1", "a private network"},
		{"one-seven-two-last", "172.31.255.255", "the last address of a private network"},
		{"one-nine-two", "192.168.1.1", "a private network"},
		{"link-local", "169.254.1.1", "link-local"},
		{"metadata-aws", "169.254.169.254", "a cloud's metadata"},
		{"metadata-ecs", "169.254.170.2", "a container's credentials"},
		{"metadata-azure", "168.63.129.16", "a cloud's host"},
		{"metadata-alibaba", "100.100.100.200", "a cloud's metadata"},
		{"metadata-oracle", "192.0.0.192", "a cloud's metadata"},
		{"cgnat", "100.64.0.1", "a provider's own network"},
		{"cgnat-last", "100.127.255.255", "the last address of a provider's own network"},
		{"protocol", "192.0.0.8", "protocol assignments"},
		{"relay", "192.88.99.1", "a relay of 6to4"},
		{"benchmark", "198.18.0.1", "a laboratory's network"},
		{"benchmark-last", "198.19.255.255", "the last address of a laboratory's network"},
		{"multicast", "224.0.0.1", "a multicast group"},
		{"multicast-site", "239.255.255.250", "a multicast group of the site"},
		{"reserved", "240.0.0.1", "a reserved address"},
		{"broadcast", "255.255.255.255", "everybody on the network"},
		{"loopback-v6", "::1", "loopback"},
		{"unspecified-v6", "::", "no address, which is this machine"},
		{"mapped", "::ffff:10.0.0.5", "a private IPv4 address, mapped"},
		{"mapped-loopback", "::ffff:7f00:1", "loopback, mapped"},
		{"mapped-metadata", "::ffff:a9fe:a9fe", "a cloud's metadata, mapped"},
		{"compatible", "::10.0.0.5", "a private IPv4 address, in the compatible form"},
		{"translated", "::ffff:0:10.0.0.5", "a private IPv4 address, translated"},
		{"nat64", "64:ff9b::a00:5", "a private IPv4 address behind NAT64"},
		{"nat64-metadata", "64:ff9b::a9fe:a9fe", "a cloud's metadata behind NAT64"},
		{"nat64-local", "64:ff9b:1::a00:5", "a private IPv4 address behind a network's own NAT64"},
		{"six-to-four", "2002:a00:5::1", "a private IPv4 address by 6to4"},
		{"six-to-four-relay", "2002:c058:6301::1", "a relay of 6to4 by 6to4"},
		{"teredo", "2001:0:cb00:7101::1", "a host by Teredo"},
		{"isatap", "2a00:1450::5efe:a00:5", "a private IPv4 address by ISATAP"},
		{"isatap-global", "2a00:1450::200:5efe:a9fe:a9fe", "a cloud's metadata by ISATAP, marked global"},
		{"link-local-v6", "fe80::1", "link-local"},
		{"ula", "fc00::1", "a private network"},
		{"ula-local", "fd12:3456::1", "a private network"},
		{"metadata-aws-v6", "fd00:ec2::254", "a cloud's metadata"},
		{"metadata-google-v6", "fd20:ce::254", "a cloud's metadata"},
		{"site-local", "fec0::1", "a site's network"},
		{"multicast-v6", "ff02::1", "a multicast group"},
		{"discard", "100::1", "nowhere"},
		{"orchid", "2001:20::1", "an identifier that is no address"},
		{"segment", "5f00::1", "a segment of a router's"},
		{"unassigned", "4000::1", "a part of IPv6 that nobody has"},
	} {
		rows = append(rows, attack{
			id: "guard-address-" + r.id, who: who, gains: gains,
			does: "names " + r.what + " (" + r.address + "), by number and behind a name",
			play: func(t *testing.T) (bool, string) {
				g := newGuardNet(t, r.address)
				g.move("as.example", r.address)
				literal := r.address
				if strings.Contains(literal, ":") {
					literal = "[" + literal + "]"
				}
				var outcomes []string
				for _, address := range []string{"https://" + literal + "/delete", "https://as.example/delete"} {
					err := reach(t, g.client(server), address)
					if !errors.As(err, new(*oauthhttp.PrivateAddressError)) {
						return true, "it was asked, or would have been"
					}
					outcomes = append(outcomes, openedOutcome(err))
				}
				if g.dialled("private") > 0 {
					return true, "it was connected to"
				}
				return false, outcomes[0] + ", both ways"
			},
		})
	}
	for _, r := range []struct{ id, address, what, stands string }{
		{"documentation", "203.0.113.77", "an address of the documentation's, of which there are five prefixes (RFC 5737, RFC 3849, RFC 9637)",
			"No network routes these prefixes. A network that uses them for itself has to refuse them itself: the comment of the list in internal/oauthhttp says so"},
		{"nat64-of-its-own", "2a00:1450:64::a00:5", "a private IPv4 address behind NAT64 with a prefix of the network's own",
			"The address looks public. The network's translator has to refuse private ones (RFC 6052 §5.1): the documentation of oauthhttp.Transport says so"},
	} {
		rows = append(rows, attack{
			id: "guard-address-" + r.id, who: who, gains: gains, does: "names " + r.what, stands: r.stands,
			play: func(t *testing.T) (bool, string) {
				g := newGuardNet(t, r.address)
				addr := netip.MustParseAddr(r.address)
				literal := netip.AddrPortFrom(addr, 443).String()
				if err := reach(t, g.client(server), "https://"+literal+"/delete"); err != nil {
					return false, openedOutcome(err)
				}
				return g.dialled("private") > 0, "it is connected to"
			},
		})
	}

	// The answers of the attacker's name server, in order.
	type step struct {
		move []string // where server.example is from now on, if not nil
		ask  string
	}
	for _, r := range []struct {
		id, does string
		steps    []step
	}{
		{"rebinding", "answers for its own name with a private address once it has been asked, and names a private host then", []step{{nil, server}, {[]string{"10.9.9.9"}, "https://intra.example/api/delete-all"}, {nil, "https://intra.example/"}}},
		{"rebinding-connect", "has its own name asked for while that is at a private host, which takes the connection", []step{{nil, server}, {[]string{"10.9.9.9"}, "https://server.example/mcp"}, {nil, "https://intra.example/api/delete-all"}}},
		{"rebinding-first", "is at a private address from the beginning, by its name server's word", []step{{[]string{"10.9.9.9"}, "https://intra.example/api/delete-all"}, {nil, server}, {nil, "https://intra.example/api/delete-all"}}},
		{"rebinding-back", "is at a private address for the first question and at its own from then on", []step{{[]string{"10.9.9.9"}, "https://intra.example/"}, {[]string{"203.0.113.1"}, server}, {nil, "https://intra.example/api/delete-all"}}},
		{"mixed-first", "answers with a private and a public address", []step{{[]string{"10.9.9.9", "203.0.113.1"}, "https://intra.example/"}, {nil, "https://intra.example/"}}},
		{"mixed-last", "answers with a public and a private address", []step{{[]string{"203.0.113.1", "fd00::9"}, server}, {nil, "https://intra.example/"}, {nil, server}, {nil, "https://intra.example/"}}},
		{"mixed-v6", "answers with a private AAAA and a public A record", []step{{[]string{"fd00::9", "203.0.113.1"}, server}, {[]string{"fd00::9"}, "https://intra.example/"}}},
		{"vanished", "has no address when the private host is asked for", []step{{nil, server}, {[]string{}, "https://intra.example/"}}},
		{"metadata", "moves to a cloud's metadata service", []step{{nil, server}, {[]string{"169.254.169.254"}, "https://server.example/latest/meta-data/"}, {nil, "https://169.254.169.254/latest/meta-data/"}}},
		{"plain", "moves to a private host and has it asked without TLS", []step{{nil, server}, {[]string{"10.9.9.9"}, "http://server.example/admin"}}},
		{"plain-loopback", "moves to loopback and has it asked without TLS", []step{{nil, server}, {[]string{"127.0.0.1"}, "http://server.example:8080/admin"}}},
		{"upper-case", "spells a private host in upper case and with a dot", []step{{nil, server}, {nil, "https://INTRA.EXAMPLE./"}}},
		{"own-name-longer", "names a private host whose name only ends like its own", []step{{nil, server}, {nil, "https://evil.server.example/"}}},
		{"own-port", "names another port of its own name, and moves it to a private host", []step{{nil, server}, {[]string{"10.9.9.9"}, "https://server.example:8443/"}, {nil, "https://SERVER.example.:8443/"}}},
		{"alias", "makes a name of its own an alias of a private host", []step{{nil, server}, {nil, "https://alias.example/"}}},
		{"redirect", "redirects the fetch of its document to a private host", []step{{nil, server}, {nil, "https://server.example/to-intra"}}},
		{"redirect-number", "redirects the fetch of its document to a private number", []step{{nil, server}, {nil, "https://server.example/to-number"}}},
		{"redirect-twice", "redirects by way of another public host", []step{{nil, server}, {nil, "https://server.example/to-relay"}}},
	} {
		rows = append(rows, attack{
			id: "guard-" + r.id, who: who, gains: gains, does: r.does,
			play: func(t *testing.T) (bool, string) {
				g := newGuardNet(t, "169.254.169.254", "10.0.0.5")
				g.move("alias.example", "10.0.0.5")
				g.move("evil.server.example", "10.0.0.5")
				g.move("relay.example", "203.0.113.2")
				g.serve("server.example", map[string]any{"/to-intra": "redirect https://intra.example/delete", "/to-number": "redirect https://10.0.0.5/delete", "/to-relay": "redirect https://relay.example/on"})
				g.serve("relay.example", map[string]any{"/on": "redirect https://intra.example/delete"})
				tr := g.transport(server)
				var last error
				for _, s := range r.steps {
					if s.move != nil {
						g.move("server.example", s.move...)
						tr.CloseIdleConnections()
					}
					if strings.HasPrefix(s.ask, "http:") { // which nothing of ours asks for
						req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.ask, nil)
						if err != nil {
							t.Fatal(err)
						}
						resp, err := tr.RoundTrip(req)
						if last = err; err == nil {
							resp.Body.Close()
						}
						continue
					}
					last = reach(t, &http.Client{Transport: tr}, s.ask)
				}
				if g.count("private") > 0 || last == nil {
					return true, "a private host was asked"
				}
				return false, openedOutcome(last)
			},
		})
	}
	rows = append(rows, attack{
		id: "guard-intranet-moved-out", who: who, gains: gains, does: "was in the user's network, and is not any more",
		play: func(t *testing.T) (bool, string) {
			g := newGuardNetWith(t, []string{"server.example", "intra.example"}, nil)
			tr := g.transport(server)
			hc := &http.Client{Transport: tr}
			g.move("server.example", "10.0.0.1")
			for _, address := range []string{server, "https://intra.example/"} { // where it may lead then
				if err := reach(t, hc, address); err != nil {
					t.Fatal(err)
				}
			}
			g.move("server.example", "203.0.113.1")
			tr.CloseIdleConnections()
			if err := reach(t, hc, server); err != nil {
				t.Fatal(err)
			}
			before := g.count("private")
			tr.CloseIdleConnections()
			err := reach(t, hc, "https://intra.example/delete")
			return err == nil || g.count("private") > before, openedOutcome(err)
		},
	})

	// These use the system's resolver and sockets, in a network that has all the addresses.
	for _, r := range []struct{ id, does, steps string }{
		{"rebinding", "answers for its own name with a private address once it has been asked, and names a private host then", server + " move=10.9.9.9 https://intra.example/api/delete-all"},
		{"rebinding-connect", "has its own name asked for while that is at a private host, which takes the connection", server + " move=10.9.9.9 " + server + " https://intra.example/api/delete-all"},
		{"rebinding-first", "is at a private address from the beginning, by its name server's word", "move=10.9.9.9 https://intra.example/api/delete-all"},
		{"mixed", "answers with a private and a public address", "move=10.9.9.9,203.0.113.1 " + server + " https://intra.example/api/delete-all"},
		{"number", "names a private host by its number", server + " https://10.0.0.5/api/delete-all"},
		{"name", "names a private host by its name", server + " https://intra.example/api/delete-all"},
	} {
		rows = append(rows, attack{
			id: "guard-network-" + r.id, who: who, gains: gains, does: r.does + ", with the resolver and the sockets of the system",
			play: func(t *testing.T) (bool, string) {
				outcome := guardInANetwork(t, r.steps)
				return outcome != "refused, as a private address, with 0 requests to private hosts", outcome
			},
		})
	}

	// Behind a proxy, which looks names up by itself, only the spelling can be judged.
	for _, r := range []struct{ id, host, what string }{
		{"decimal", "2852039166", "by one decimal number"},
		{"hexadecimal", "0xa9fea9fe", "by one hexadecimal number"},
		{"upper-hexadecimal", "0XA9.0XFE.0XA9.0XFE", "by four hexadecimal numbers in upper case"},
		{"octal", "0251.0376.0251.0376", "by octal numbers"},
		{"mixed-bases", "0xa9.254.0251.254", "by numbers of three bases"},
		{"leading-zeros", "010.000.000.005", "with zeros in front"},
		{"three-parts", "169.254.43518", "by three numbers"},
		{"short", "127.1", "by two numbers"},
		{"zero", "0", "as 0"},
		{"empty-hexadecimal", "0x", "as 0x"},
		{"large", "4294967296", "by a number that is too large"},
		{"five-parts", "10.0.0.5.1", "by five numbers"},
		{"dot", "169.254.169.254.", "with a dot at its end"},
		{"two-dots", "169.254.169.254..", "with two dots at its end"},
		{"number-dot", "2852039166.", "by one number and a dot"},
		{"name-number", "x.169.254.169.254", "with a name in front"},
		{"full-width", "１６９.２５４.１６９.２５４", "by full-width digits"},
		{"full-width-dots", "169。254．169｡254", "with dots of other scripts"},
		{"circled", "①②⑦.⓪.⓪.①", "by circled digits"},
		{"superscript", "¹²⁷.⁰.⁰.¹", "by superscript digits"},
		{"mathematical", "𝟏𝟐𝟕.𝟎.𝟎.𝟏", "by mathematical digits"},
		{"encoded-full-width", "%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1", "by full-width digits, percent-encoded"},
		{"plain", "10.0.0.5", "as it is"},
		{"metadata", "169.254.169.254", "as it is"},
		{"mapped", "[::ffff:169.254.169.254]", "as a mapped address"},
		{"mapped-hexadecimal", "[::ffff:a9fe:a9fe]", "as a mapped address in hexadecimal"},
		{"compatible", "[::169.254.169.254]", "as a compatible address"},
		{"nat64", "[64:ff9b::a9fe:a9fe]", "behind NAT64"},
		{"isatap", "[2a00::5efe:a9fe:a9fe]", "by ISATAP"},
		{"long-v6", "[0000:0000:0000:0000:0000:0000:0000:0001]", "as loopback in full length"},
		{"zone", "[fe80::1%25eth0]", "with a zone"},
		{"ula", "[fd00:ec2::254]", "as a private address of IPv6"},
		{"brackets", "[169.254.169.254]", "in brackets"},
		{"localhost-dot", "localhost.", "as localhost with a dot"},
		{"below-localhost", "x.localhost", "as a name below localhost"},
		{"full-width-localhost", "ｌｏｃａｌｈｏｓｔ", "as localhost in full-width letters"},
		{"metadata-name", "metadata.google.internal", "by the metadata service's name"},
		{"local", "router.local", "by a name of the local network"},
		{"one-label", "intranet", "by a name without a dot"},
		{"soft-hyphen", "local\u00adhost", "as localhost with a soft hyphen in it"},
		{"zero-width", "10.0.\u200b0.5", "with a character in it that cannot be seen"},
		{"userinfo", "x@10.0.0.5", "behind a user's name"},
	} {
		rows = append(rows, attack{
			id: "guard-proxied-" + r.id, who: who, gains: "requests to hosts of the proxy's own network", does: "names a private host " + r.what + " (`" + r.host + "`), which a proxy is to connect to",
			play: func(t *testing.T) (bool, string) {
				outcome, asked := guardProxied(t, "https://"+r.host+"/delete")
				return len(asked) > 0, outcome
			},
		})
	}
	return rows
}
