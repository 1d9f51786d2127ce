package main

import (
	"errors"
	"io"
	"slices"
	"strings"

	"oidc-publisher/internal/cli"

	"oidc-publisher/federation/credentialprovider"
)

const categoryNode = "Instead of answering kubelet"

func credentialProviderCommand() *cli.Command {
	command := &cli.Command{
		Name:        "credential-provider",
		Usage:       "answer kubelet, which asks for the credential of an image",
		ArgsUsage:   strings.Join(credentialprovider.Providers(), "|"),
		Description: credentialProviderDescription,
		Action:      cli.NoSubcommand,
	}
	for _, provider := range credentialprovider.Providers() {
		command.Subcommands = append(command.Subcommands, credentialProviderFor(provider))
	}
	return command
}

//nolint:gosec // G101: a text about credentials
const credentialProviderDescription = `kubelet runs this for pulls, with the token of the pod's service account on
standard input (credentialprovider.kubelet.k8s.io/v1, Kubernetes 1.33 and
later), and reads a credential of the image's registry from standard output.
oidc-publisher-credential-provider is the same as a small program of its own,
which starts faster: install that on nodes.

Exit codes: 0 answered, with nothing for an image of another registry; 1 the
exchange failed, and kubelet's log has the line that says why; 2 wrong usage;
3 --check found no pattern that matches.`

func credentialProviderFor(provider string) *cli.Command {
	settings := credentialprovider.NewSettings().Flags(provider)
	flags := nodeFlags(provider)
	for _, f := range settings {
		flags = append(flags, cli.Setting(f.Name, f.Usage, f.Env, f.Many))
	}
	return &cli.Command{
		Name:        provider,
		Usage:       "credentials of " + serviceName(provider),
		Description: credentialProviderExamples(provider),
		Flags:       flags,
		Action: func(c *cli.Context) error {
			if err := cli.CheckArgs(c); err != nil {
				return err
			}
			settings := credentialprovider.NewSettings()
			for _, f := range settings.Flags(provider) {
				if err := setFrom(c, f); err != nil {
					return cli.Usagef("%v", err)
				}
			}
			if nodeAsked(c) {
				return nodeAction(c, provider, settings)
			}
			return answerKubelet(c, provider, settings)
		},
	}
}

func serviceName(provider string) string {
	return map[string]string{credentialprovider.ProviderCloudsmith: "Cloudsmith", credentialprovider.ProviderGCP: "Google Cloud"}[provider]
}

func credentialProviderExamples(provider string) string {
	example := cli.Name + " credential-provider " + provider
	which := map[string]string{credentialprovider.ProviderGCP: ` \
    --provider projects/123456789/locations/global/workloadIdentityPools/clusters/providers/cluster-a`}[provider]
	return `Examples:
  # what goes on each node, and what is applied to the cluster
  ` + example + ` --print-config` + which + ` > credential-provider.yaml
  ` + example + ` --print-rbac` + which + ` | kubectl apply -f -

  # would kubelet call it for this image?
  ` + example + ` --check ` + map[string]string{
		credentialprovider.ProviderCloudsmith: "docker.cloudsmith.io/acme/team/app:1",
		credentialprovider.ProviderGCP:        "europe-docker.pkg.dev/project/repository/app:1",
	}[provider]
}

// setFrom gives a setting what the command line or the environment has for it.
func setFrom(c *cli.Context, f credentialprovider.Flag) error {
	var errs []error
	for _, value := range valuesOf(c, f) {
		errs = append(errs, f.Set(value))
	}
	return errors.Join(errs...)
}

func valuesOf(c *cli.Context, f credentialprovider.Flag) []string {
	switch {
	case !c.IsSet(f.Name):
		return nil
	case f.Many:
		return cli.Values(c, f.Name)
	case c.String(f.Name) == "":
		return nil
	default:
		return []string{c.String(f.Name)}
	}
}

// answerKubelet fails in one way: to kubelet every exit code but 0 is the same.
func answerKubelet(c *cli.Context, provider string, settings *credentialprovider.Settings) error {
	plugin, err := settings.Plugin(provider)
	if err != nil {
		return cli.Usagef("%v", err)
	}
	if err := plugin.Answer(c.Context, c.App.Reader, c.App.Writer); err != nil {
		return errors.New(err.Error())
	}
	return nil
}

// given are the settings again, as arguments of the plugin.
func given(c *cli.Context, settings *credentialprovider.Settings, provider string) []string {
	var args []string
	for _, f := range settings.Flags(provider) {
		for _, value := range valuesOf(c, f) {
			args = append(args, "--"+f.Name+"="+value)
		}
	}
	return slices.Clip(args)
}

func writeAll(w io.Writer, data []byte, err error) error {
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
