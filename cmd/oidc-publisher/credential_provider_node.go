package main

import (
	"fmt"
	"io"
	"strings"

	kubelet "k8s.io/kubelet/config/v1"
	"oidc-publisher/federation/credentialprovider"
	"oidc-publisher/federation/credentialprovider/nodeconfig"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/cli"
	"oidc-publisher/internal/httpx"
)

// cloudsmithAudience is what the tokens are for unless somebody says otherwise.
const cloudsmithAudience = exchange.CloudsmithURL

func nodeFlags(provider string) []cli.Flag {
	audience := cli.String("audience", "", "the `AUDIENCE` of the tokens, as the service expects it")
	if provider == credentialprovider.ProviderCloudsmith {
		audience.Value = cloudsmithAudience
	} else {
		audience.DefaultText = "https://iam.googleapis.com/ and the provider's name"
	}
	return append(inCategory(categoryNode,
		cli.Bool("print-config", "print kubelet's CredentialProviderConfig"),
		cli.Bool("print-rbac", "print the right of nodes to ask for tokens of the audience, for kubectl apply"),
		cli.String("check", "", "say which pattern of matchImages would match this `IMAGE`, and which key its credential would have"),
		cli.String("config", "", "let --check read the patterns from this `FILE`, a node's CredentialProviderConfig, instead of the printed one"),
		cli.String("kubernetes-version", "1.34+", "the `VERSION` of the kubelets: 1.33, 1.34+"),
		audience,
		cli.String("name", "", "the plugin's file on the node is called `NAME` (default: "+credentialprovider.ProgramName+"-"+provider+"); each audience needs its own"),
		cli.List("env", "print `NAME=VALUE` into the plugin's environment, like HTTPS_PROXY and SSL_CERT_FILE; repeatable"),
	), cli.Output("text", "json"))
}

func nodeAsked(c *cli.Context) bool {
	return c.Bool("print-config") || c.Bool("print-rbac") || c.IsSet("check")
}

func nodeAction(c *cli.Context, provider string, settings *credentialprovider.Settings) error {
	format, err := cli.OutputFormat(c, "text", "json")
	if err != nil {
		return err
	}
	node, err := nodeOf(c, provider, settings)
	if err != nil {
		return err
	}
	switch {
	case c.IsSet("check") && c.String("check") == "":
		return cli.Usagef("--check needs an image")
	case c.String("check") != "" && (c.Bool("print-config") || c.Bool("print-rbac")), c.Bool("print-config") && c.Bool("print-rbac"):
		return cli.Usagef("--print-config, --print-rbac and --check are three answers: ask for one")
	case c.String("check") != "":
		return checkImage(c, node, format)
	case format == "json":
		return printNode(c, node)
	case c.Bool("print-config"):
		text, err := node.ConfigYAML()
		return writeAll(c.App.Writer, text, err)
	default:
		text, err := node.RightsYAML()
		return writeAll(c.App.Writer, text, err)
	}
}

func nodeOf(c *cli.Context, provider string, settings *credentialprovider.Settings) (nodeconfig.Node, error) {
	version, err := nodeconfig.ParseVersion(c.String("kubernetes-version"))
	if err != nil {
		return nodeconfig.Node{}, cli.Usagef("--kubernetes-version: %v", err)
	}
	node := nodeconfig.Node{Version: version, Provider: provider, Name: c.String("name"), Audience: c.String("audience"), Settings: settings, Args: given(c, settings, provider)}
	name, err := identityProvider(settings)
	if err != nil {
		return node, cli.Usagef("%v", err)
	}
	if node.Audience == "" {
		if name == "" && !c.IsSet("check") {
			return node, cli.Usagef("--audience is missing: it is what the workload identity provider allows, or give --provider")
		}
		node.Audience = "https://iam.googleapis.com/" + name
	}
	if strings.ContainsAny(node.Name, "/ ") || strings.HasPrefix(node.Name, ".") {
		return node, cli.Usagef("--name is %q, and must be the name of a file", node.Name)
	}
	for _, pair := range cli.Values(c, "env") {
		key, value, found := strings.Cut(pair, "=")
		if !found || key == "" {
			return node, cli.Usagef("--env is %q, and must be NAME=VALUE", pair)
		}
		node.Env = append(node.Env, kubelet.ExecEnvVar{Name: key, Value: value})
	}
	return node, nil
}

// identityProvider returns the name that stands in the audience, "" if there is
// none, and refuses what Google would.
func identityProvider(settings *credentialprovider.Settings) (name string, err error) {
	for _, given := range []string{settings.Provider.Default, settings.Provider.Pinned} {
		if given == "" {
			continue
		}
		if name, err = exchange.ParseProvider(given); err != nil {
			return "", err
		}
	}
	return name, nil
}

// printNode prints both, and the flags, for scripts.
func printNode(c *cli.Context, node nodeconfig.Node) error {
	role, binding := node.Rights()
	return cli.PrintJSON(c.App.Writer, map[string]any{
		"config": node.Config(), "rbac": []any{role, binding}, "kubeletFlags": node.KubeletFlags(),
	})
}

func checkImage(c *cli.Context, node nodeconfig.Node, format string) error {
	image, config := c.String("check"), node.Config()
	if err := nodeconfig.CheckImage(image); err != nil {
		return cli.Usagef("--check: %v", err)
	}
	if file := c.String("config"); file != "" {
		var err error
		if config, err = readNodeConfig(file); err != nil {
			return cli.Usagef("--config %s: %v", file, err)
		}
	}
	matches := nodeconfig.Check(config, image)
	key, err := node.AuthKey(image)
	why := ""
	if err != nil {
		why = err.Error()
	}
	called := false
	for _, m := range matches {
		called = called || m.Matches
	}
	if format == "json" {
		err = cli.PrintJSON(c.App.Writer, map[string]any{"image": image, "called": called, "patterns": matches, "authKey": key, "why": why})
	} else {
		err = printCheck(c.App.Writer, matches, key, why)
	}
	if err == nil && (!called || key == "") {
		err = &cli.ExitError{Code: cli.ExitRefused}
	}
	return err
}

func printCheck(w io.Writer, matches []nodeconfig.Match, key, why string) error {
	var out strings.Builder
	for _, m := range matches {
		verdict := "matches"
		if !m.Matches {
			verdict = "does not match: " + m.Why
		}
		fmt.Fprintf(&out, "%s: %s %s\n", m.Provider, m.Pattern, verdict)
	}
	if why != "" {
		fmt.Fprintf(&out, "auth key: none; %s\n", cli.Printable(why))
	} else if key == "" {
		fmt.Fprintln(&out, "auth key: none; the plugin takes the image for somebody else's (--registry)")
	} else {
		fmt.Fprintf(&out, "auth key: %s\n", key)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// maxNodeConfig bounds the file in bytes.
const maxNodeConfig = 1 << 20

func readNodeConfig(path string) (kubelet.CredentialProviderConfig, error) {
	data, err := httpx.ReadFile(path, maxNodeConfig)
	if err != nil {
		return kubelet.CredentialProviderConfig{}, err
	}
	return nodeconfig.ParseConfig(data)
}
