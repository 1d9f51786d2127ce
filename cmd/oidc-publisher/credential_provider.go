package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	kubelet "k8s.io/kubelet/config/v1"

	"oidc-publisher/federation/credentialprovider"
	"oidc-publisher/federation/credentialprovider/nodeconfig"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/internal/cli"
)

func credentialProviderCommand() *cli.Command {
	command := &cli.Command{
		Name:        "credential-provider",
		Usage:       "answer kubelet with the credential of an image",
		ArgsUsage:   strings.Join(credentialprovider.Providers(), "|"),
		Description: credentialProviderDescription,
		Action:      cli.NoSubcommand,
	}
	for _, provider := range credentialprovider.Providers() {
		command.Subcommands = append(command.Subcommands, credentialProviderOf(provider))
	}
	return command
}

//nolint:gosec // G101: a text about credentials
const credentialProviderDescription = `kubelet runs this command for pulls, with the token of the pod's service account
on standard input (credentialprovider.kubelet.k8s.io/v1, Kubernetes 1.33 and
later), and reads a credential of the image's registry from standard output.
On nodes install oidc-publisher-credential-provider: the same as a small program
of its own, which starts faster.

config and rbac print what nodes and cluster need; check tells whether kubelet
would call the plugin for an image.

Exit codes: 0 answered, without a credential for an image of another registry;
1 the exchange failed, and kubelet's log has the reason in one line; 2 wrong
usage; 3 check found that kubelet would get no credential.`

func credentialProviderOf(provider string) *cli.Command {
	output := func() cli.Flag { return cli.Output("text", "json") }
	return &cli.Command{
		Name:        provider,
		Usage:       "credentials of " + plugins[provider].title,
		ArgsUsage:   "[config|rbac|check IMAGE]",
		Description: fmt.Sprintf(credentialProviderExamples, provider, plugins[provider].exampleFlags, plugins[provider].exampleImage),
		Flags:       pluginFlags(provider),
		Action:      func(c *cli.Context) error { return answerKubelet(c, provider) },
		Subcommands: []*cli.Command{
			{
				Name: "config", Usage: "print kubelet's CredentialProviderConfig",
				Flags: slices.Concat(pluginFlags(provider), nodeFlags(provider), []cli.Flag{output()},
					cli.InCategory("Node", cli.List("env", "`NAME=VALUE` in the plugin's environment, such as HTTPS_PROXY; repeatable"))),
				Action: func(c *cli.Context) error {
					return printNode(c, provider, nodeconfig.Node.ConfigYAML, func(node nodeconfig.Node) any {
						return map[string]any{"config": node.Config(), "kubeletFlags": node.KubeletFlags()}
					})
				},
			},
			{
				Name: "rbac", Usage: "print the RBAC that lets nodes request tokens of the audience",
				Flags: append(slices.Concat(pluginFlags(provider), nodeFlags(provider)), output()),
				Action: func(c *cli.Context) error {
					return printNode(c, provider, nodeconfig.Node.RightsYAML, func(node nodeconfig.Node) any {
						role, binding := node.Rights()
						return map[string]any{"apiVersion": "v1", "kind": "List", "items": []any{role, binding}}
					})
				},
			},
			{
				Name: "check", Usage: "show which pattern of matchImages matches an image", ArgsUsage: "IMAGE",
				Flags: append(pluginFlags(provider), output(),
					cli.String("config", "", "`FILE` with a node's CredentialProviderConfig (default: what config prints)")),
				Action: func(c *cli.Context) error { return checkImage(c, provider) },
			},
		},
	}
}

// plugins describes the providers for the help.
var plugins = map[string]struct{ title, audience, exampleFlags, exampleImage string }{
	credentialprovider.ProviderCloudsmith: {
		"Cloudsmith", exchange.CloudsmithURL, "", "docker.cloudsmith.io/acme/team/app:1",
	},
	credentialprovider.ProviderGCP: {
		"Google Cloud", "https://iam.googleapis.com/ and the provider's name", ` \
    --provider projects/123456789/locations/global/workloadIdentityPools/clusters/providers/cluster-a`,
		"europe-docker.pkg.dev/project/repository/app:1",
	},
}

//nolint:gosec // G101: a text about credentials
const credentialProviderExamples = `Examples:
  # what each node needs, and what is applied to the cluster
  oidc-publisher credential-provider %[1]s config%[2]s > credential-provider.yaml
  oidc-publisher credential-provider %[1]s rbac%[2]s | kubectl apply -f -

  # would kubelet call the plugin for this image?
  oidc-publisher credential-provider %[1]s check %[3]s`

// pluginFlags are the settings of the plugin, which kubelet passes too.
func pluginFlags(provider string) []cli.Flag {
	var flags []cli.Flag
	for _, f := range credentialprovider.NewSettings().Flags(provider) {
		flags = append(flags, cli.Setting(f.Name, f.Usage, f.Env, f.Many))
	}
	return cli.InCategory("Plugin", flags...)
}

func nodeFlags(provider string) []cli.Flag {
	audience := cli.String("audience", "", "`AUDIENCE` of the tokens")
	audience.DefaultText = plugins[provider].audience
	name := cli.String("name", "", "file `NAME` of the plugin; each audience needs its own")
	name.DefaultText = credentialprovider.ProgramName + "-" + provider
	return cli.InCategory("Node", audience, name, cli.String("kubernetes-version", "1.34+", "`VERSION` of the kubelets: 1.33, 1.34+"))
}

// pluginSettings reads pluginFlags. args are the same settings in the form of
// arguments for the plugin.
func pluginSettings(c *cli.Context, provider string) (settings *credentialprovider.Settings, args []string, err error) {
	settings = credentialprovider.NewSettings()
	var errs []error
	for _, f := range settings.Flags(provider) {
		values := []string{c.String(f.Name)}
		if f.Many {
			values = cli.Values(c, f.Name)
		}
		for _, value := range values {
			if c.IsSet(f.Name) && (value != "" || f.Many) {
				args = append(args, "--"+f.Name+"="+value)
				errs = append(errs, f.Set(value))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, cli.Usagef("%v", err)
	}
	return settings, args, nil
}

// nodeOf reads pluginFlags and nodeFlags.
func nodeOf(c *cli.Context, provider string) (nodeconfig.Node, error) {
	settings, args, err := pluginSettings(c, provider)
	if err != nil {
		return nodeconfig.Node{}, err
	}
	version, err := nodeconfig.ParseVersion(c.String("kubernetes-version"))
	if err != nil {
		return nodeconfig.Node{}, cli.Usagef("--kubernetes-version: %v", err)
	}
	node := nodeconfig.Node{Version: version, Provider: provider, Name: c.String("name"), Audience: c.String("audience"), Settings: settings, Args: args}
	audience, err := settings.Audience(provider)
	if err != nil {
		return node, cli.Usagef("%v", err)
	}
	if node.Audience == "" {
		node.Audience = audience
	}
	if node.Audience == "" {
		return node, cli.Usagef("--audience is missing: give the audience that the workload identity provider allows, or --provider")
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

// answerKubelet returns errors without a special exit code: kubelet
// distinguishes only success and failure.
func answerKubelet(c *cli.Context, provider string) error {
	settings, _, err := pluginSettings(c, provider)
	if err != nil {
		return err
	}
	plugin, err := settings.Plugin(provider)
	if err != nil {
		return cli.Usagef("%v", err)
	}
	if err := plugin.Answer(c.Context, c.App.Reader, c.App.Writer); err != nil {
		return errors.New(err.Error())
	}
	return nil
}

func printNode(c *cli.Context, provider string, text func(nodeconfig.Node) ([]byte, error), object func(nodeconfig.Node) any) error {
	node, err := nodeOf(c, provider)
	if err != nil {
		return err
	}
	if c.String("output") == "json" {
		return cli.PrintJSON(c.App.Writer, object(node))
	}
	data, err := text(node)
	if err != nil {
		return err
	}
	_, err = c.App.Writer.Write(data)
	return err
}

func checkImage(c *cli.Context, provider string) error {
	settings, _, err := pluginSettings(c, provider)
	if err != nil {
		return err
	}
	image := c.Args().First()
	if err := nodeconfig.CheckImage(image); err != nil {
		return cli.Usagef("%v", err)
	}
	node := nodeconfig.Node{Provider: provider, Settings: settings}
	config := node.Config()
	if file := c.String("config"); file != "" {
		if config, err = nodeconfig.ReadConfig(file); err != nil {
			return cli.Usagef("--config %s: %v", file, err)
		}
	}
	report := node.Check(config, image)
	if c.String("output") == "json" {
		err = cli.PrintJSON(c.App.Writer, report)
	} else {
		_, err = io.WriteString(c.App.Writer, checkText(report))
	}
	if err == nil && (!report.Called || report.AuthKey == "") {
		err = &cli.ExitError{Code: cli.ExitRefused}
	}
	return err
}

func checkText(report nodeconfig.Report) string {
	var out strings.Builder
	for _, m := range report.Patterns {
		verdict := "matches"
		if !m.Matches {
			verdict = "does not match: " + m.Why
		}
		fmt.Fprintf(&out, "%s: %s %s\n", m.Provider, m.Pattern, verdict)
	}
	switch {
	case report.Why != "":
		fmt.Fprintf(&out, "auth key: none; %s\n", cli.Printable(report.Why))
	case report.AuthKey == "":
		fmt.Fprintf(&out, "auth key: none; the image is not from one of the plugin's registries (--registry)\n")
	default:
		fmt.Fprintf(&out, "auth key: %s\n", report.AuthKey)
	}
	return out.String()
}
