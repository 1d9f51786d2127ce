package backends

import (
	"path/filepath"
	"strings"
	"testing"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/testserver"
	"oidc-publisher/publish"
)

func TestParse(t *testing.T) {
	for raw, want := range map[string]string{
		"gs://bucket":                            "gs://bucket",
		"gs://bucket/":                           "gs://bucket",
		"gs://my_bucket.example.com/a/b/":        "gs://my_bucket.example.com/a/b",
		"GS://bucket/a":                          "gs://bucket/a",
		"s3://bucket/a%20b":                      "s3://bucket/a%20b",
		"s3://bucket/a%40b":                      "s3://bucket/a%40b",
		"s3://bucket?region=eu-west-1":           "s3://bucket?region=eu-west-1",
		"s3://bucket/p?path-style=false":         "s3://bucket/p",
		"s3://bucket/p?path-style=true&region=r": "s3://bucket/p?region=r&path-style=true",
		"s3://b-1/p?endpoint=http://127.0.0.1:9000/&path-style=true":  "s3://b-1/p?endpoint=http://127.0.0.1:9000&path-style=true",
		"s3://b-1/p?endpoint=https%3A%2F%2Fminio.example.com%2Fstore": "s3://b-1/p?endpoint=https://minio.example.com/store",
		"file:///srv/www":        "file:///srv/www",
		"file:///srv//www/../x/": "file:///srv/x",
		"file:///a%20b":          "file:///a%20b",
		"/srv/www":               "file:///srv/www",
		"/srv/a@b#c?d%20":        "file:///srv/a%40b%23c%3Fd%2520",
		"out":                    "./out",
		"./out/":                 "./out",
		"../out":                 "../out",
		".":                      ".",
		"with:colon":             "./with:colon",
		"./s3:x":                 "./s3:x",
	} {
		target, err := Parse(raw)
		if err != nil {
			t.Errorf("Parse(%q): %v", raw, err)
			continue
		}
		if target.String() != want {
			t.Errorf("Parse(%q) is %q, want %q", raw, target, want)
		}
		if local := strings.Contains(want, "file:") || want[0] == '.'; target.scheme.Local != local {
			t.Errorf("Parse(%q): Local is %v", raw, target.scheme.Local)
		}
	}
}

const secret = "sEcReT"

func TestParseErrors(t *testing.T) {
	for raw, want := range map[string]string{
		"":                                    "empty target: use gs://BUCKET/PREFIX",
		"gs://":                               "no bucket: use gs://BUCKET/PREFIX",
		"gs:///prefix":                        "no bucket",
		"s3:bucket":                           "two slashes are missing",
		"gs:/bucket":                          "two slashes are missing",
		"gcs://bucket":                        `unknown scheme "gcs": did you mean gs://BUCKET/PREFIX?`,
		"minio://bucket":                      "did you mean s3://",
		"ftp://host/" + secret:                `unknown scheme "ftp": use gs://`,
		"https://example.com/x":               "did you mean s3://",
		"gs://bucket/a/../b":                  `"a/../b" can't be a prefix`,
		"gs://bucket/..":                      "can't be a prefix",
		"gs://bucket/a//b":                    "can't be a prefix",
		"gs://bucket//a":                      "can't be a prefix",
		"gs://bucket/%2e%2e/b":                "can't be a prefix",
		"gs://bucket/a%00b":                   "can't be a prefix",
		`gs://bucket/a\b`:                     "can't be a prefix",
		"gs://bucket/a#b":                     "has a fragment",
		"gs://bucket/a#":                      "has a fragment",
		"gs://Bucket/a":                       `"Bucket" can't be a bucket's name`,
		"gs://b":                              "can't be a bucket's name",
		"s3://my_bucket":                      "can't be a bucket's name",
		"s3://a..b":                           "can't be a bucket's name",
		"s3://127.0.0.1":                      "can't be a bucket's name",
		"s3://bucket:80/a":                    "can't be a bucket's name",
		"gs://bucket?region=r":                `unknown parameter "region": use gs://BUCKET/PREFIX`,
		"file:///p?region=r":                  `unknown parameter "region"`,
		"s3://bucket?regoin=r":                `unknown parameter "regoin": use s3://BUCKET/PREFIX?region=R&endpoint=URL&path-style=true`,
		"s3://bucket?region=a;b":              "parameters are not well-formed",
		"s3://bucket?region=":                 "parameter region is empty",
		"s3://bucket?region=A B":              "must be one such as eu-west-1",
		"s3://bucket?region=a&region=b":       "parameter region is given 2 times",
		"s3://bucket?path-style=1":            "must be true or false",
		"s3://bucket?endpoint=minio:9000":     "must be the base URL",
		"s3://bucket?endpoint=https://x/?a=b": "must be the base URL",
		"s3://bucket?endpoint=https://key:" + secret + "@x":  "credentials don't belong in a target",
		"s3://bucket?endpoint=https://k:" + secret + "%40x":  "must be the base URL",
		"s3://bucket?secret_key=" + secret:                   `unknown parameter "secret_key"`,
		"s3://key:" + secret + "@bucket/p":                   "credentials don't belong in a target",
		"s3://key:" + secret + "/x@bucket/p":                 "credentials don't belong in a target",
		"s3://key@bucket":                                    "write %40",
		"s3://key:" + secret:                                 "not a valid URL",
		"file://relative/path":                               "three slashes",
		"file://":                                            "three slashes",
		"file:///a%00b":                                      "no NUL",
		"a\x00b":                                             "no NUL",
		"gs://buck et":                                       "not a valid URL",
		"https://storage.googleapis.com/bucket/p":            "that is a public URL, not a place to write to: use gs://bucket/p",
		"https://bucket.s3.eu-west-1.amazonaws.com/p":        "use s3://bucket/p?region=eu-west-1",
		"https://" + secret + ":" + secret + "@example.com/": "did you mean",
	} {
		target, err := Parse(raw)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): got %v and error %v, want one that says %q", raw, target.place, err, want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("Parse(%q) repeats the secret: %v", raw, err)
		}
		if target.place != nil {
			t.Errorf("Parse(%q): a target beside the error", raw)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"gs://bucket/p", "s3://bucket/a%2Fb?region=r&endpoint=http://h:1/x&path-style=true", "file:///a%20b", "./out", "s3:x", "a://b", "//x", "%", "./..//x:/",
		"https://storage.googleapis.com/bucket/p", "s3://bucket?endpoint=http://[::1%25zone]:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		target, err := Parse(raw)
		if err != nil {
			return
		}
		again, err := Parse(target.String())
		if err != nil || again.place != target.place {
			t.Errorf("Parse(%q) is %q, which parses to %q, %v", raw, target, again, err)
		}
	})
}

func TestForIssuer(t *testing.T) {
	for issuer, want := range map[string]string{
		"https://storage.googleapis.com/bucket":                      "gs://bucket",
		"https://storage.googleapis.com/bucket/":                     "gs://bucket",
		"https://storage.googleapis.com/bucket/a/b":                  "gs://bucket/a/b",
		"https://bucket.storage.googleapis.com":                      "gs://bucket",
		"https://oidc.example.com.storage.googleapis.com/p":          "gs://oidc.example.com/p",
		"https://s3.eu-west-1.amazonaws.com/bucket/p":                "s3://bucket/p?region=eu-west-1",
		"https://bucket.s3.eu-west-1.amazonaws.com/p":                "s3://bucket/p?region=eu-west-1",
		"https://my.s3.bucket.s3.us-gov-west-1.amazonaws.com":        "s3://my.s3.bucket?region=us-gov-west-1",
		"https://bucket.s3.dualstack.ap-southeast-2.amazonaws.com/p": "s3://bucket/p?region=ap-southeast-2",
		"https://s3.dualstack.ap-southeast-2.amazonaws.com/bucket/p": "s3://bucket/p?region=ap-southeast-2",
		"https://s3-fips.us-gov-west-1.amazonaws.com/bucket":         "s3://bucket?region=us-gov-west-1",
		"https://s3-eu-west-1.amazonaws.com/bucket/p":                "s3://bucket/p?region=eu-west-1",
		"https://bucket.s3-eu-west-1.amazonaws.com/p":                "s3://bucket/p?region=eu-west-1",
		"https://s3.amazonaws.com/bucket/p":                          "s3://bucket/p",
		"https://bucket.s3.amazonaws.com/p":                          "s3://bucket/p",
		"https://bucket.s3.cn-north-1.amazonaws.com.cn/p":            "s3://bucket/p?region=cn-north-1",
		"https://s3.cn-north-1.amazonaws.com.cn/bucket/p":            "s3://bucket/p?region=cn-north-1",
		"https://oidc.example.com":                                   "",
		"https://storage.googleapis.com":                             "",
		"https://storage.googleapis.com/":                            "",
		"https://s3.eu-west-1.amazonaws.com":                         "",
		"https://storage.googleapis.com.evil.example/bucket":         "",
		"https://evilstorage.googleapis.com/bucket":                  "",
		"https://bucket.s3.eu-west-1.amazonaws.com.evil.example":     "",
		"https://bucket.s3-website-us-east-1.amazonaws.com":          "",
		"https://oidc.eks.eu-west-1.amazonaws.com/id/0123":           "",
		"https://storage.googleapis.com:8443/bucket":                 "",
		"http://storage.googleapis.com/bucket":                       "",
		"https://storage.googleapis.com/bucket/a/../b":               "",
		"https://storage.googleapis.com/Bucket":                      "",
		"not a URL\x7f":                                              "",
		"":                                                           "",
	} {
		target, ok := ForIssuer(issuer)
		if ok != (want != "") || ok && target.String() != want {
			t.Errorf("ForIssuer(%q) is %v, %v, want %q", issuer, target.place, ok, want)
		}
		if ok {
			if err := target.checkIssuer(discovery.Issuer(issuer)); err != nil {
				t.Errorf("derived target: %v", err)
			}
		}
	}
}

func TestCheckIssuer(t *testing.T) {
	const (
		google = "https://storage.googleapis.com/bucket/p"
		amazon = "https://bucket.s3.eu-west-1.amazonaws.com/p"
	)
	for _, test := range []struct{ target, issuer, want string }{
		{"gs://bucket/p", google, ""},
		{"gs://bucket/p/", google, ""},
		{"gs://bucket/q", google, "--to 'gs://bucket/p'"},
		{"gs://bucket", google, "--to 'gs://bucket/p'"},
		{"gs://other/p", google, "--to 'gs://bucket/p'"},
		{"s3://bucket/p", google, "--to 'gs://bucket/p'"},
		{"gs://bucket/p", amazon, "--to 's3://bucket/p?region=eu-west-1'"},
		{"s3://bucket/p", amazon, ""},
		{"s3://bucket/p?region=eu-west-1", amazon, ""},
		{"s3://bucket/p?region=us-east-1", amazon, "--to 's3://bucket/p?region=eu-west-1'"},
		{"s3://bucket/p?endpoint=https://minio.example.com", amazon, "--to 's3://bucket/p?region=eu-west-1'"},
		{"s3://bucket/p?endpoint=https://s3.eu-west-1.amazonaws.com", amazon, ""},
		{"s3://bucket/q?region=us-east-1&path-style=true", amazon, "--to 's3://bucket/p?region=eu-west-1&path-style=true'"},
		{"s3://bucket/q?region=us-east-1", "https://s3.amazonaws.com/bucket/p", "--to 's3://bucket/p?region=us-east-1'"},
		{"s3://bucket/p?region=us-east-1", "https://s3.amazonaws.com/bucket/p", ""},
		{"gs://bucket/q", "https://oidc.example.com", ""},
		{"./out", google, ""},
		{"/srv/www", amazon, ""},
	} {
		target, err := Parse(test.target)
		if err != nil {
			t.Fatal(err)
		}
		err = target.checkIssuer(discovery.Issuer(test.issuer))
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s for %s: %v", test.target, test.issuer, err)
		case test.want != "" && (err == nil || !strings.HasSuffix(err.Error(), test.want) ||
			!strings.Contains(err.Error(), test.target) || !strings.Contains(err.Error(), test.issuer)):
			t.Errorf("%s for %s: got error %v, want one that names both and says %s", test.target, test.issuer, err, test.want)
		}
	}
}

// TestOpen opens one target of each scheme and puts an object into it, which
// proves that every parameter arrives.
func TestOpen(t *testing.T) {
	s3, gcs := testserver.S3(t), testserver.GCS(t)
	s3.CreateBucket(t, "bucket")
	gcs.CreateBucket(t, "bucket")
	s3.Setenv(t)
	gcs.Setenv(t)
	for _, raw := range []string{
		"gs://bucket/p",
		"s3://bucket/p?region=" + testserver.S3Region + "&path-style=true&endpoint=" + s3.Endpoint,
		filepath.Join(t.TempDir(), "out"),
		"file://" + t.TempDir(),
	} {
		target, err := Open(t.Context(), raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		defer target.Backend.Close()
		if local := !strings.HasPrefix(raw, "gs:") && !strings.HasPrefix(raw, "s3:"); target.Name != raw || target.Local != local || (target.CheckIssuer == nil) != local {
			t.Errorf("%s: opened as %+v", raw, target)
		}
		if err := target.Backend.Put(t.Context(), publish.Object{Name: "a/b", Body: []byte("x")}, publish.IfAbsent()); err != nil {
			t.Error(err)
		}
	}
	for _, raw := range []string{"", "ftp://host/p", "s3://bucket"} { // the last one has no region
		t.Setenv("AWS_REGION", "")
		if target, err := Open(t.Context(), raw); err == nil || target.Backend != nil {
			t.Errorf("%q: got %v and error %v", raw, target.Backend, err)
		}
	}
}
