package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
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

func pullSecretCommand() *cli.Command {
	return &cli.Command{
		Name:        "pull-secret",
		Usage:       "keep a registry's credential in image pull secrets, in many namespaces",
		ArgsUsage:   "cloudsmith|gcp",
		Description: pullDescription,
		Action:      cli.NoSubcommand,
		Subcommands: []*cli.Command{
			{
				Name:        "cloudsmith",
				Usage:       "with a credential of Cloudsmith",
				Description: pullDescription + pullCloudsmithExamples,
				Flags:       slices.Concat(cloudsmithFlags(), subjectTokenFlags(), clusterFlags(), pullSecretFlags()),
				Action:      pullSecretCloudsmith,
			},
			{
				Name:        "gcp",
				Usage:       "with a credential of Google Cloud",
				Description: pullDescription + pullGCPExamples,
				Flags:       slices.Concat(gcpFlags(), subjectTokenFlags(), clusterFlags(), pullSecretFlags()),
				Action:      pullSecretGCP,
			},
		},
	}
}

const pullDescription = `Exchanges a service account token once and writes the credential into a secret
of type kubernetes.io/dockerconfigjson in every namespace that is selected, by
server-side apply. A secret of another type, manager or owner is left alone
unless --take-over is given. No secret's content is ever read.

Exit codes: 0 done; 1 all failed; 2 wrong usage; 3 refused, by the service or
because all secrets are somebody else's; 4 some namespaces failed, the others
are done, or a secret was written and a service account could not be attached.`

const pullCloudsmithExamples = `

Examples:
  # as a CronJob that has nothing to do in most of its runs
  oidc-publisher pull-secret cloudsmith --org acme --service-slug puller \
    --secret-name cloudsmith --all-namespaces --min-remaining 45m

  # as a Deployment, which serves new namespaces at once
  oidc-publisher pull-secret cloudsmith --org acme --service-slug puller \
    --secret-name cloudsmith --namespace-selector images=private --refresh --leader-elect`

const pullGCPExamples = `

Example:
  oidc-publisher pull-secret gcp --service-account puller@acme.iam.gserviceaccount.com \
    --provider projects/123456789/locations/global/workloadIdentityPools/clusters/providers/cluster-a \
    --registry europe-docker.pkg.dev --secret-name regcred --namespace team-a,team-b --attach default`

const (
	categoryNamespaces = "Namespaces"
	categorySecret     = "Secret"
	categoryRefresh    = "Refresh"
)

func pullSecretFlags() []cli.Flag {
	minRemaining := cli.Duration("min-remaining", 0, "do nothing if every secret serves for longer than `DURATION`")
	minRemaining.Category = categorySecret
	leaderElect, listen := cli.Bool("leader-elect", "let one of several replicas write, by a Lease"), cli.String("listen", ":8080", "serve /livez, /readyz and /metrics at `ADDRESS`; empty serves nothing")
	timeout := cli.Duration("timeout", 5*time.Minute, "give up after `DURATION`, all steps together; with --refresh one exchange after at most 30s")
	return slices.Concat(
		inCategory(categorySecret,
			cli.String("secret-name", "", "`NAME` of the secret"),
			cli.List("registry", "`HOST` of images that the credential is for, or HOST/PATH to give it for those below a path only; repeatable (default for Cloudsmith: docker.cloudsmith.io)"),
			cli.String("owner", "", "write only secrets of this `OWNER` (default: the service and the account there)"),
			cli.Bool("take-over", "write over secrets of others; one of another type is deleted and made anew"),
			cli.List("attach", "add the secret to the imagePullSecrets of `SERVICEACCOUNT` in each namespace; repeatable"),
			cli.List("detach", "only take it off `SERVICEACCOUNT` again, and leave the secrets alone; repeatable"),
		),
		[]cli.Flag{minRemaining},
		inCategory(categoryNamespaces,
			cli.List("namespace", "write to `NAMESPACE`; repeatable, or several with commas (default: the pod's own, or that of the kubeconfig)"),
			cli.String("namespace-selector", "", "write to all namespaces whose labels match `SELECTOR`"),
			cli.Bool("all-namespaces", "write to all namespaces"),
			cli.List("exclude-namespace", "leave `NAMESPACE` out, a name or a pattern like 'kube-*'; repeatable, or several with commas"),
		),
		inCategory(categoryRefresh,
			cli.Bool("refresh", "go on until SIGTERM: a new credential when two thirds of the old one's life are over, and at once a secret that is missing or was changed"),
			leaderElect, listen,
		),
		cli.LogFlags("text; with --refresh json, unless stderr is a terminal"),
		[]cli.Flag{cli.Output("text", "json"), cli.Bool("dry-run", "let the API server judge every write and keep none"), timeout},
	)
}

// pulling is what is common to a pass and to --refresh.
type pulling struct {
	cluster    *kube.Source
	api        *pullsecret.Cluster
	secret     pullsecret.Secret
	namespaces pullsecret.Namespaces
	exchange   func(context.Context) (exchange.Credential, error)
}

func pullSecretCloudsmith(c *cli.Context) error {
	exchanger, err := cloudsmithExchanger(c)
	if err != nil {
		return err
	}
	owner := "cloudsmith/" + c.String("org") + "/" + c.String("service-slug")
	return pullSecretAction(c, owner, c.String("cloudsmith-url"), cloudsmithService(c), exchanger, exchange.TokenFile{})
}

func pullSecretGCP(c *cli.Context) error {
	exchanger, config, file, err := gcpExchanger(c)
	if err != nil {
		return err
	}
	owner := "gcp/" + config.ServiceAccount
	if config.ServiceAccount == "" {
		owner = "gcp/" + config.Provider
	}
	return pullSecretAction(c, owner, strings.Join(append([]string{config.Provider, config.STSURL, config.IAMURL}, config.Scopes...), " "), gcpService(config), exchanger, file)
}

func pullSecretAction(c *cli.Context, owner, source string, s exchangeService, exchanger exchange.Exchanger, file exchange.TokenFile) error {
	if err := errors.Join(cli.CheckArgs(c), cli.CheckTimeout(c), checkPullSecret(c)); err != nil {
		return err
	}
	p, err := newPulling(c, owner, source, s)
	if err != nil {
		return err
	}
	if len(lists(c, "detach")) > 0 {
		return pullSecretPass(c, p)
	}
	subject, err := subjectTokenOf(c, file)
	if err != nil {
		return err
	}
	p.exchange = func(ctx context.Context) (exchange.Credential, error) {
		return s.exchange(ctx, c.Context, exchanger, subject)
	}
	if c.Bool("refresh") {
		return pullSecretRefresh(c, p)
	}
	return pullSecretPass(c, p)
}

// checkPullSecret refuses flags that don't go together.
func checkPullSecret(c *cli.Context) error {
	var selections []string
	for name, given := range map[string]bool{
		"--namespace": len(lists(c, "namespace")) > 0, "--namespace-selector": c.String("namespace-selector") != "", "--all-namespaces": c.Bool("all-namespaces"),
	} {
		if given {
			selections = append(selections, name)
		}
	}
	slices.Sort(selections)
	detach := len(lists(c, "detach")) > 0
	switch {
	case c.String("secret-name") == "":
		return cli.Usagef("--secret-name is missing")
	case len(validation.IsDNS1123Subdomain(c.String("secret-name"))) > 0:
		return cli.Usagef("--secret-name %q is no name of a secret: it has lower-case letters, digits, - and . between them", c.String("secret-name"))
	case len(selections) > 1:
		return cli.Usagef("%s and %s are two selections of namespaces: give one", selections[0], selections[1])
	case c.Duration("min-remaining") < 0:
		return cli.Usagef("--min-remaining must not be negative")
	case c.Bool("refresh") && (c.Bool("dry-run") || c.Duration("min-remaining") > 0):
		return cli.Usagef("--refresh goes by the credential's own life, and on: leave --dry-run and --min-remaining out")
	case c.Bool("refresh") && c.String("token-file") == "-":
		return cli.Usagef("--refresh reads the token again at each exchange, and standard input can be read once: give --token-file FILE")
	case c.Bool("leader-elect") && !c.Bool("refresh"):
		return cli.Usagef("--leader-elect is for --refresh")
	case detach && (c.Bool("refresh") || len(lists(c, "attach")) > 0 || c.Bool("take-over")):
		return cli.Usagef("--detach does nothing else: leave --attach, --refresh and --take-over out")
	}
	for _, flag := range []string{"namespace", "attach", "detach"} {
		for _, value := range lists(c, flag) {
			if len(validation.IsDNS1123Subdomain(value)) > 0 {
				return cli.Usagef("--%s %q is no name: it has lower-case letters, digits, - and . between them", flag, value)
			}
		}
	}
	return nil
}

// lists is list where no value has a comma: several may be given at once.
func lists(c *cli.Context, flag string) (values []string) {
	for _, value := range c.StringSlice(flag) {
		for one := range strings.SplitSeq(value, ",") {
			if one = strings.TrimSpace(one); one != "" {
				values = append(values, one)
			}
		}
	}
	return values
}

func newPulling(c *cli.Context, owner, source string, s exchangeService) (*pulling, error) {
	p := &pulling{namespaces: pullsecret.Namespaces{
		Names: lists(c, "namespace"), Selector: c.String("namespace-selector"), Except: lists(c, "exclude-namespace"),
	}}
	if err := p.namespaces.Check(); err != nil {
		return nil, cli.Usagef("%v", err)
	}
	registries, err := pullRegistries(c, s)
	if err != nil {
		return nil, err
	}
	p.secret = pullsecret.Secret{Name: c.String("secret-name"), Registries: registries, Owner: owner, Source: owner + " " + source}
	if c.String("owner") != "" {
		p.secret.Owner = c.String("owner")
	}
	if p.cluster, err = openCluster(c); err != nil {
		return nil, err
	}
	if p.api, err = pullsecret.Connect(p.cluster.RESTConfig(), p.cluster.Explain); err != nil {
		return nil, err
	}
	if len(p.namespaces.Names) == 0 && p.namespaces.Selector == "" && !c.Bool("all-namespaces") {
		p.namespaces.Names = []string{p.cluster.Namespace()}
	}
	return p, nil
}

func pullRegistries(c *cli.Context, s exchangeService) ([]string, error) {
	given := lists(c, "registry")
	if len(given) == 0 {
		given = s.registries
	}
	if len(given) == 0 {
		return nil, cli.Usagef("--registry is missing: the host of the images, like europe-docker.pkg.dev")
	}
	var registries []string
	for _, one := range given {
		key, err := pullsecret.ParseRegistry(one)
		if err != nil {
			return nil, cli.Usagef("--registry: %v", err)
		}
		registries = append(registries, key)
	}
	return registries, nil
}

// pullSecretPass is a single pass.
func pullSecretPass(c *cli.Context, p *pulling) error {
	format, err := cli.OutputFormat(c, "text", "json")
	if err != nil {
		return err
	}
	log, err := cli.Logger(c)
	if err != nil {
		return err
	}
	progress, done := pullProgress(c.App.ErrWriter)
	job := &pullsecret.Job{
		Cluster: p.api, Secret: p.secret, Namespaces: p.namespaces, Exchange: p.exchange, Attach: lists(c, "attach"),
		MinRemaining: c.Duration("min-remaining"), TakeOver: c.Bool("take-over"), DryRun: c.Bool("dry-run"), Progress: progress,
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	var report pullsecret.Report
	if accounts := lists(c, "detach"); len(accounts) > 0 {
		report, err = job.Detach(ctx, accounts)
	} else {
		report, err = job.Run(ctx)
	}
	done()
	err = cli.Overtime(err, c.Duration("timeout"))
	warnOfMinRemaining(log, job.MinRemaining, report)
	for _, r := range report.Results {
		if r.Outcome == pullsecret.TakenOver || r.Outcome == pullsecret.Replaced {
			what := "secret taken over from another owner"
			if job.DryRun {
				what = "secret would be taken over from another owner"
			}
			log.Warn(what, "namespace", r.Namespace, "secret", p.secret.Name, "outcome", r.Outcome)
		}
	}
	return errors.Join(printPullReport(c.App.Writer, format, job, report, err), pullVerdict(c.App.ErrWriter, job, report, err))
}

// warnOfMinRemaining tells whoever never finds a secret fresh: each run sends the
// token, and spends of what the service allows in an hour.
func warnOfMinRemaining(log *slog.Logger, least time.Duration, report pullsecret.Report) {
	switch {
	case least == 0 || !report.Exchanged:
	case report.Expiry.IsZero():
		log.Warn("the service does not say when the credential expires, so every run exchanges anew: leave --min-remaining out, or use --refresh")
	case report.Life <= least:
		log.Warn("--min-remaining is no less than the credential's whole life, so every run exchanges anew: give a little more than the time between two runs",
			"life", report.Life.Round(time.Second), "min_remaining", least)
	}
}

// pullVerdict tells what failed and returns the exit code's error.
func pullVerdict(stderr io.Writer, job *pullsecret.Job, report pullsecret.Report, err error) error {
	if err != nil {
		return err
	}
	failed, refused, partly := report.Count(pullsecret.Failed), report.Count(pullsecret.Refused), 0
	for _, r := range report.Results {
		switch {
		case r.Partly():
			partly++
			cli.Say(stderr, "error", fmt.Sprintf("secret %s/%s is %s, but %v", r.Namespace, job.Secret.Name, outcomeText(r.Outcome, job.DryRun), r.Err))
		case r.Outcome == pullsecret.Failed:
			cli.Say(stderr, "error", r.Err.Error())
		case r.Outcome == pullsecret.Refused:
			cli.Say(stderr, "refused", strings.TrimPrefix(r.Err.Error(), pullsecret.ErrRefused.Error()+": "))
		}
	}
	switch bad := failed + refused; {
	case bad == 0 && partly == 0:
		return nil
	case partly > 0 || bad < len(report.Results)-report.Count(pullsecret.Skipped):
		return &cli.ExitError{Code: cli.ExitPartly}
	case failed == 0:
		return &cli.ExitError{Code: cli.ExitRefused}
	default:
		return &cli.ExitError{Code: cli.ExitFailed}
	}
}

// pullProgress shows how far it is to somebody who watches.
func pullProgress(stderr io.Writer) (progress func(done, of int), end func()) {
	file, ok := stderr.(*os.File)
	if !ok || !cli.IsTerminal(file) {
		return nil, func() {}
	}
	var mu sync.Mutex
	shown := false
	return func(done, of int) {
			mu.Lock()
			defer mu.Unlock()
			if shown = true; done%10 == 0 || done == of {
				_, _ = fmt.Fprintf(stderr, "\r%d of %d namespaces", done, of)
			}
		}, func() {
			mu.Lock()
			defer mu.Unlock()
			if shown {
				_, _ = fmt.Fprint(stderr, "\r\x1b[K")
			}
		}
}

// exchangeLimit bounds one exchange of --refresh.
const exchangeLimit = 30 * time.Second

func pullSecretRefresh(c *cli.Context, p *pulling) error {
	log, err := cli.ServiceLogger(c)
	if err != nil {
		return err
	}
	config := pullsecret.KeeperConfig{
		Cluster: p.api, Secret: p.secret, Namespaces: p.namespaces, Exchange: p.exchange, Timeout: min(c.Duration("timeout"), exchangeLimit),
		Attach: lists(c, "attach"), TakeOver: c.Bool("take-over"), Log: log,
	}
	if config.Elector, err = elector(c, p.cluster, leaseName("-pull", p.secret.Owner, p.secret.Name)); err != nil {
		return err
	}
	return service.Run(c.Context, c.String("listen"), func(_ context.Context, registry prometheus.Registerer) (service.Worker, error) {
		log.Info("keeping pull secrets", "secret", p.secret.Name, "owner", p.secret.Owner, "registries", strings.Join(p.secret.Registries, ","))
		return pullsecret.NewKeeper(config, registry), nil
	})
}

// elector competes for a Lease, if it is asked for.
func elector(c *cli.Context, cluster *kube.Source, named string) (*lease.Elector, error) {
	if !c.Bool("leader-elect") {
		return nil, nil
	}
	identity, err := lease.Identity()
	if err != nil {
		return nil, err
	}
	return lease.New(cluster.RESTConfig(), cluster.Namespace(), named, identity)
}

// leaseName names a Lease after what its holder writes, so that replicas of one
// Deployment meet and others don't.
func leaseName(kind string, what ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(what, " ")))
	return cli.Name + kind + "-" + hex.EncodeToString(sum[:5])
}
