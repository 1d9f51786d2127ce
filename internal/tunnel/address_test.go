package tunnel_test

import (
	"strings"
	"testing"

	"oidc-publisher/internal/tunnel"
)

func TestParseServer(t *testing.T) {
	for _, c := range []struct{ text, address, again string }{
		{"ssh://ada@tunnel.example.com", "tunnel.example.com:22", "ssh://ada@tunnel.example.com"},
		{"ssh://tunnel.example.com:2222/", "tunnel.example.com:2222", "ssh://tunnel.example.com:2222"},
		{"ssh://ada@[2001:db8::1]", "[2001:db8::1]:22", "ssh://ada@[2001:db8::1]"},
		{"ssh://ada@[2001:db8::1]:2222", "[2001:db8::1]:2222", "ssh://ada@[2001:db8::1]:2222"},
		{"ssh://ada:secret@tunnel.example.com", "", ""},
		{"ssh://ada:secret@tunnel.example.com:none", "", ""},
		{"ssh://-oProxyCommand@host", "", ""},
		{"ssh://ada@-host", "", ""},
		{"tunnel.example.com", "", ""},
		{"ada@tunnel.example.com", "", ""},
		{"https://tunnel.example.com", "", ""},
		{"ssh://", "", ""},
		{"ssh:tunnel", "", ""},
		{"ssh://host/path", "", ""},
		{"ssh://host?bind=1", "", ""},
		{"ssh://host:0", "", ""},
		{"ssh://host:65536", "", ""},
		{"ssh://host:x", "", ""},
		{"", "", ""},
	} {
		server, err := tunnel.ParseServer(c.text)
		if (err != nil) != (c.address == "") {
			t.Errorf("%q: %v", c.text, err)
		}
		if err != nil {
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: the error tells the password: %v", c.text, err)
			}
			continue
		}
		if server.Address() != c.address || server.String() != c.again {
			t.Errorf("%q: %s, %s", c.text, server.Address(), server)
		}
	}
}

func TestParseBind(t *testing.T) {
	for text, want := range map[string]string{
		"80": "localhost:80", "0": "localhost:0", "*:8080": "*:8080", ":8080": ":8080", "my-name:80": "my-name:80",
		"[::]:443": "[::]:443", "": "", "x": "", "localhost": "", "70000": "", "-1": "", "a:b:1": "", "a:x": "",
	} {
		bind, err := tunnel.ParseBind(text)
		if (err != nil) != (want == "") || err == nil && bind.String() != want {
			t.Errorf("%q: %v, %v", text, bind, err)
		}
	}
}

func FuzzParseServer(f *testing.F) {
	for _, seed := range []string{"ssh://ada@host", "ssh://[::1]:22", "ssh://a%40b@host:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		server, err := tunnel.ParseServer(text)
		if err != nil {
			return
		}
		if again, err := tunnel.ParseServer(server.String()); err != nil || again != server {
			t.Errorf("%q is %+v; written as %q it is %+v, %v", text, server, server, again, err)
		}
	})
}
