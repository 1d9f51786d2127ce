package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/validation"

	"oidc-publisher/discovery/kube"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/pullsecret"
	"oidc-publisher/federation/pullsecret/lease"
	"oidc-publisher/internal/cli"
	"oidc-publisher/internal/service"
)

func pullSecretCommand(services []exchangeService) *cli.Command {
	return perService(&cli.Command{
		Name:        "pull-secret",
		Usage:       "keep a registry credential in image pull secrets of many namespaces",
		Description: pullSecretDescription,
	}, services, pullSecretWith)
}

//nolint:gosec // G101: a text about credentials
const pullSecretDescription = `Exchanges a service account token once and writes the credential into a secret
of type kubernetes.io/dockerconfigjson in every selected namespace, by server-side
apply. A secret of another type, manager or owner is left alone unless --take-over
is given. The content of secrets is never read.

With --refresh it runs until SIGTERM: it writes a new credential when two thirds
of the old one's life are over, and at once a secret that is missing or changed.
Each exchange takes at most 30s then. /livez, /readyz and /metrics are served at
--admin-listen.

Exit codes: 0 done; 1 all failed; 2 wrong usage; 3 refused by the service, or all
secrets belong to other owners; 4 some namespaces failed, the others are done, or
a secret was written and a service account could not be attached.`

func pullSecretWith(service exchangeService) *cli.Command {
	return &cli.Command{
		Name:        service.name,
		Usage:       "keep a credential of " + service.title,
		Description: pullSecretDescription + "\n\nExamples:" + service.pullSecretExamples,
		Flags:       slices.Concat(service.flags(), subjectFlags(), clusterFlags(), pullSecretFlags(service)),
		Action:      func(c *cli.Context) error { return pullSecretAction(c, service) },
	}
}

func pullSecretFlags(service exchangeService) []cli.Flag {
	minRemaining := cli.DurationFrom(0, "min-remaining", 0, "do nothing if every secret is valid for longer than `DURATION`")
	minRemaining.DefaultText = "always write"
	return slices.Concat(
		cli.InCategory("Secret",
			cli.String("secret-name", "", "`NAME` of the secret"),
			service.registryFlag("`HOST` of the images, or HOST/PATH; repeatable"),
			cli.String("owner", "", "write only secrets of this `OWNER` (default: service and account)"),
			cli.Bool("take-over", "overwrite secrets of other owners, recreate those of other types"),
			cli.List("attach", "add the secret to the imagePullSecrets of `SERVICEACCOUNT`; repeatable"),
			cli.List("detach", "only remove the secret from `SERVICEACCOUNT`; repeatable"),
			minRemaining,
		),
		cli.InCategory("Namespaces",
			cli.List("namespace", "`NAMESPACE` of a secret; repeatable (default: the pod's or kubeconfig's own)"),
			cli.String("namespace-selector", "", "label `SELECTOR` of the namespaces"),
			cli.Bool("all-namespaces", "all namespaces"),
			cli.List("exclude-namespace", "leave out `NAMESPACE`, a name or a pattern such as kube-*; repeatable"),
		),
		cli.InCategory("Refresh",
			cli.Bool("refresh", "run until SIGTERM and renew credentials and secrets"),
			cli.Bool("leader-elect", "elect one of several replicas to write, by a Lease"),
			cli.String("admin-listen", ":8080", "serve health and metrics at `ADDRESS`; empty disables"),
		),
		cli.LogFlags("text; with --refresh json, unless stderr is a terminal"),
		[]cli.Flag{
			cli.Output("text", "json"),
			cli.Bool("dry-run", "have the API server check every write and store none"),
			cli.Timeout(5 * time.Minute),
		},
	)
}

// pullSecretOptions are the flags of one run. The job has no cluster yet.
type pullSecretOptions struct {
	job pullsecret.Job
	// detach are service accounts to remove the secret from.
	detach               []string
	allNamespaces        bool
	refresh, leaderElect bool
	adminListen          string
	timeout              time.Duration
	cluster              kube.Config
}

// exchangeLimit bounds one exchange of --refresh.
const exchangeLimit = 30 * time.Second

func pullSecretAction(c *cli.Context, service exchangeService) error {
	target, err := service.target(c)
	if err != nil {
		return err
	}
	options, err := readPullSecretFlags(c, service, target)
	if err != nil {
		return err
	}
	if len(options.detach) == 0 {
		subject, err := subjectOf(c, target.tokenFile)
		if err != nil {
			return err
		}
		options.job.Exchange = func(ctx context.Context) (exchange.Credential, error) {
			return target.exchange(ctx, c.Context, subject)
		}
	}
	cluster, err := kube.New(options.cluster)
	if err != nil {
		return err
	}
	job := &options.job
	if job.Cluster, err = pullsecret.Connect(cluster.RESTConfig(), cluster.Explain); err != nil {
		return err
	}
	if len(job.Namespaces.Names) == 0 && job.Namespaces.Selector == "" && !options.allNamespaces {
		job.Namespaces.Names = []string{cluster.Namespace()}
	}
	if options.refresh {
		return refreshPullSecrets(c, options, cluster)
	}
	return writePullSecrets(c, options)
}

// readPullSecretFlags reads pullSecretFlags.
func readPullSecretFlags(c *cli.Context, service exchangeService, target exchangeTarget) (pullSecretOptions, error) {
	options := pullSecretOptions{
		job: pullsecret.Job{
			Secret:       pullsecret.Secret{Name: c.String("secret-name"), Owner: target.owner, Source: target.owner + " " + target.source},
			Namespaces:   pullsecret.Namespaces{Names: cli.CommaValues(c, "namespace"), Selector: c.String("namespace-selector"), Except: cli.CommaValues(c, "exclude-namespace")},
			Attach:       cli.CommaValues(c, "attach"),
			MinRemaining: c.Duration("min-remaining"),
			TakeOver:     c.Bool("take-over"),
			DryRun:       c.Bool("dry-run"),
		},
		detach:        cli.CommaValues(c, "detach"),
		allNamespaces: c.Bool("all-namespaces"),
		refresh:       c.Bool("refresh"),
		leaderElect:   c.Bool("leader-elect"),
		adminListen:   c.String("admin-listen"),
		timeout:       c.Duration("timeout"),
		cluster:       readCluster(c),
	}
	if owner := c.String("owner"); owner != "" {
		options.job.Secret.Owner = owner
	}
	err := errors.Join(options.check(), options.checkNames())
	if err == nil && options.refresh && c.String("token-file") == "-" {
		err = cli.Usagef("--refresh reads the token at each exchange, and standard input can be read once: give --token-file FILE")
	}
	if err != nil {
		return options, err
	}
	registries := cli.CommaValues(c, "registry")
	if len(registries) == 0 {
		registries = service.registries
	}
	if len(registries) == 0 {
		return options, cli.Usagef("--registry is missing: the host of the images, such as europe-docker.pkg.dev")
	}
	for _, registry := range registries {
		key, err := pullsecret.ParseRegistry(registry)
		if err != nil {
			return options, cli.Usagef("--registry: %v", err)
		}
		options.job.Secret.Registries = append(options.job.Secret.Registries, key)
	}
	return options, nil
}

// check refuses flags that exclude each other.
func (o pullSecretOptions) check() error {
	var selections []string
	if o.allNamespaces {
		selections = append(selections, "--all-namespaces")
	}
	if len(o.job.Namespaces.Names) > 0 {
		selections = append(selections, "--namespace")
	}
	if o.job.Namespaces.Selector != "" {
		selections = append(selections, "--namespace-selector")
	}
	switch {
	case len(selections) > 1:
		return cli.Usagef("%s and %s exclude each other: give one", selections[0], selections[1])
	case o.refresh && (o.job.DryRun || o.job.MinRemaining > 0):
		return cli.Usagef("--refresh renews by the credential's lifetime: leave --dry-run and --min-remaining out")
	case o.leaderElect && !o.refresh:
		return cli.Usagef("--leader-elect is for --refresh")
	case len(o.detach) > 0 && (o.refresh || len(o.job.Attach) > 0 || o.job.TakeOver):
		return cli.Usagef("--detach only detaches: leave --attach, --refresh and --take-over out")
	}
	return nil
}

// checkNames refuses names that Kubernetes would.
func (o pullSecretOptions) checkNames() error {
	const allowed = "lower-case letters, digits, and - and . between them"
	invalid := func(name string) bool { return len(validation.IsDNS1123Subdomain(name)) > 0 }
	switch name := o.job.Secret.Name; {
	case name == "":
		return cli.Usagef("--secret-name is missing")
	case invalid(name):
		return cli.Usagef("--secret-name %q is not the name of a secret: %s", name, allowed)
	}
	for flag, names := range map[string][]string{"namespace": o.job.Namespaces.Names, "attach": o.job.Attach, "detach": o.detach} {
		if at := slices.IndexFunc(names, invalid); at >= 0 {
			return cli.Usagef("--%s %q is not a name: %s", flag, names[at], allowed)
		}
	}
	if err := o.job.Namespaces.Check(); err != nil {
		return cli.Usagef("%v", err)
	}
	return nil
}

// writePullSecrets writes or detaches once.
func writePullSecrets(c *cli.Context, options pullSecretOptions) error {
	job := &options.job
	var clearProgress func()
	job.Progress, clearProgress = pullSecretProgress(c.App.ErrWriter)
	ctx, cancel := context.WithTimeout(c.Context, options.timeout)
	defer cancel()
	var report pullsecret.Report
	var err error
	if len(options.detach) > 0 {
		report, err = job.Detach(ctx, options.detach)
	} else {
		report, err = job.Run(ctx)
	}
	clearProgress()
	err = cli.Overtime(err, options.timeout)
	warnOfPullSecrets(cli.Logger(c), job, report)
	if err != nil && c.String("output") != "json" {
		return err
	}
	return errors.Join(printPullReport(c.App.Writer, c.String("output"), job, report, err), pullVerdict(c.App.ErrWriter, job, report, err))
}

// refreshPullSecrets keeps the secrets until SIGTERM.
func refreshPullSecrets(c *cli.Context, options pullSecretOptions, cluster *kube.Source) error {
	log := cli.ServiceLogger(c)
	job := options.job
	config := pullsecret.KeeperConfig{Job: job, Timeout: min(options.timeout, exchangeLimit), Log: log}
	if options.leaderElect {
		identity, err := lease.Identity()
		if err != nil {
			return err
		}
		config.Elector = job.Cluster.Elector(cluster.Namespace(), lease.NameFor(cli.Name+"-pull", job.Secret.Owner, job.Secret.Name), identity)
	}
	return service.Run(c.Context, options.adminListen, func(_ context.Context, registry prometheus.Registerer) (service.Worker, error) {
		log.Info("keeping pull secrets", "secret", job.Secret.Name, "owner", job.Secret.Owner, "registries", strings.Join(job.Secret.Registries, ","))
		return pullsecret.NewKeeper(config, registry), nil
	})
}
