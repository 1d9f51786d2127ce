package tunnel_test

import (
	"strings"
	"testing"

	"oidc-publisher/internal/tunnel"
)

func TestParseServer(t *testing.T) {
	for _, c := range []struct{ text, again string }{
		{"ssh://ada@tunnel.example.com", "ssh://ada@tunnel.example.com"},
		{"ssh://ada@tunnel.example.com:22", "ssh://ada@tunnel.example.com:22"},
		{"ssh://tunnel.example.com:2222/", "ssh://tunnel.example.com:2222"},
		{"ssh://alias_of-mine", "ssh://alias_of-mine"},
		{"ssh://ada@[2001:db8::1]", "ssh://ada@[2001:db8::1]"},
		{"ssh://ada@[2001:db8::1]:2222", "ssh://ada@[2001:db8::1]:2222"},
		{"ssh://token+tcp%40x@a.example", "ssh://token+tcp%40x@a.example"},
		{"ssh://ada:secret@tunnel.example.com", ""},
		{"ssh://ada:secret@tunnel.example.com:none", ""},
		{"ssh://-oProxyCommand@host", ""},
		{"ssh://ada%0a@host", ""},
		{"ssh://ada;id@host", ""},
		{"ssh://$(id)@host", ""},
		{"ssh://a%20b@host", ""},
		{"ssh://ada@-host", ""},
		{"ssh://ada@ho;st", ""},
		{"tunnel.example.com", ""},
		{"ada@tunnel.example.com", ""},
		{"https://tunnel.example.com", ""},
		{"ssh://", ""},
		{"ssh:tunnel", ""},
		{"ssh://host/path", ""},
		{"ssh://host?bind=1", ""},
		{"ssh://host:0", ""},
		{"ssh://host:65536", ""},
		{"ssh://host:x", ""},
		{"", ""},
	} {
		server, err := tunnel.ParseServer(c.text)
		if (err != nil) != (c.again == "") {
			t.Errorf("%q: %v", c.text, err)
		}
		if err != nil {
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: the error contains the password: %v", c.text, err)
			}
			continue
		}
		if server.String() != c.again {
			t.Errorf("%q: %s", c.text, server)
		}
	}
}

func TestParseBind(t *testing.T) {
	for text, want := range map[string]string{
		"80": "80", "0": "0", "*:8080": "*:8080", ":8080": "*:8080", "my-name:80": "my-name:80",
		"[::]:443": "[::]:443", "": "", "x": "", "localhost": "", "70000": "", "-1": "", "a:b:1": "", "a:x": "", "-a:80": "", "a b:80": "",
	} {
		bind, err := tunnel.ParseBind(text)
		if (err != nil) != (want == "") || err == nil && bind.String() != want {
			t.Errorf("%q: %v, %v", text, bind, err)
		}
	}
}

func TestCheckOption(t *testing.T) {
	for option, says := range map[string]string{
		"IdentityFile=~/.ssh/id": "", "ProxyJump=a@b:22,c": "", "StrictHostKeyChecking=yes": "", "StrictHostKeyChecking=ask": "",
		"ServerAliveInterval=60": "", "ProxyCommand=nc -x proxy:1080 %h %p": "",
		"IdentityFile": "KEY=VALUE", "=x": "KEY=VALUE", "": "KEY=VALUE", "-oX=y": "KEY=VALUE", "A B=c": "KEY=VALUE", "A=": "KEY=VALUE", "A=b\nControlMaster=yes": "KEY=VALUE",
		"ControlMaster=yes": "tunnel itself", "controlpath=/tmp/x": "tunnel itself", "BATCHMODE=no": "tunnel itself", "ExitOnForwardFailure=no": "tunnel itself",
		"RemoteCommand=id": "tunnel itself", "ForkAfterAuthentication=yes": "tunnel itself", "RemoteForward=1 a:2": "tunnel itself", "SessionType=none": "tunnel itself",
		"NoHostAuthenticationForLocalhost=yes": "tunnel itself", "VerifyHostKeyDNS=yes": "tunnel itself", "KnownHostsCommand=/bin/keys": "tunnel itself", "PermitLocalCommand=yes": "tunnel itself", "LocalCommand=id": "tunnel itself", "LogVerbose=x": "tunnel itself",
		"StrictHostKeyChecking=no": "must be checked", "stricthostkeychecking=accept-new": "must be checked", `StrictHostKeyChecking="no"`: "must be checked", "StrictHostKeyChecking= off": "must be checked",
	} {
		err := tunnel.CheckOption(option)
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", option, err, says)
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
