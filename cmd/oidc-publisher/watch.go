package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"oidc-publisher/internal/cli"
	"oidc-publisher/internal/service"
	"oidc-publisher/internal/service/retry"
	"oidc-publisher/publish"
	"oidc-publisher/publish/watch"
)

func watchCommand() *cli.Command {
	return &cli.Command{
		Name:        "watch",
		Usage:       "publish whenever the cluster's keys change, and keep the public issuer correct",
		Description: watchDescription,
		Flags: slices.Concat(intervalFlags(), []cli.Flag{
			cli.String("admin-listen", ":8080", "serve health and metrics at `ADDRESS`; empty disables"),
			toFlag(),
		}, publicationFlags(), cli.LogFlags(cli.LogOfService)),
		Action: watchAction,
	}
}

const watchDescription = `Does what publish does at every --interval, and at once when an API server closes
its connection, when a newly minted token names a key that is not public, and on
SIGHUP. A failed pass is retried, and what is public stays public meanwhile.
Several replicas may run at once: no leader is needed.

SIGTERM ends it once the write in progress is done. /livez, /readyz and /metrics
are served at --admin-listen.

Examples:
  oidc-publisher watch --to gs://my-issuer
  oidc-publisher watch --to 's3://my-issuer?region=eu-central-1'`

func watchAction(c *cli.Context) error {
	log := cli.ServiceLogger(c)
	config := watch.Config{Interval: c.Duration("interval"), VerifyInterval: c.Duration("verify-interval"), Log: log}
	nudge := service.NewNudge()
	defer nudge.OnHangup(c.Context)()
	config.Nudge = nudge
	publication, err := readPublication(c, false)
	if err != nil {
		return err
	}
	if publication.policy.Grace < publish.MinReplicatedGrace && !publication.source.isFiles() && !publication.source.cluster.AllAPIServers {
		return cli.Usagef("--grace of less than %v needs --all-api-servers: replicas that ask different API servers could drop each other's keys", publish.MinReplicatedGrace)
	}
	publisher, err := publication.publisher(nudge.Send)
	if err != nil {
		return err
	}
	publisher.Log, publisher.Replicated, config.Publisher = log, true, publisher
	defer func() { closeTargets(publisher.Targets) }()
	return service.Run(c.Context, c.String("admin-listen"), func(ctx context.Context, registry prometheus.Registerer) (service.Worker, error) {
		if err := awaitTargets(ctx, publication, publisher, log); err != nil || ctx.Err() != nil {
			return nil, err
		}
		var targets []string
		for _, target := range publisher.Targets {
			targets = append(targets, target.Name)
		}
		log.Info("watching", "targets", strings.Join(targets, ","), "interval", config.Interval)
		return watch.New(config, registry), nil
	})
}

// awaitTargets calls openTargets until the API server answers, whose issuer may
// name the bucket. It returns nil if ctx ends.
func awaitTargets(ctx context.Context, publication publication, publisher *publish.Publisher, log *slog.Logger) error {
	if len(publication.targets) > 0 {
		return publication.openTargets(ctx, publisher)
	}
	failures := service.NewFailures(log)
	permanent := func(err error) bool {
		usage := new(cli.UsageError)
		return errors.As(err, &usage) || errors.Is(err, publish.ErrRefused)
	}
	report := func(err error) { failures.Report("fetch of the issuer", err) }
	err := retry.Do(ctx, func() error { return publication.openTargets(ctx, publisher) }, permanent, report)
	if err == nil && ctx.Err() == nil {
		report(nil)
	}
	return err
}
