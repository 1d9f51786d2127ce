package main

import (
	"cmp"
	"slices"
	"time"

	"oidc-publisher/backends"
	"oidc-publisher/internal/cli"
	"oidc-publisher/publish"
)

func publishCommand() *cli.Command {
	return &cli.Command{
		Name:        "publish",
		Usage:       "copy a cluster's discovery documents to where relying parties can read them",
		Description: publishDescription,
		Flags: slices.Concat(publicationFlags(), []cli.Flag{
			toFlag(),
			takeOverFlag(),
			cli.Bool("no-verify", "do not read the public issuer after writing"),
			cli.Bool("dry-run", "print what would be written, and write nothing"),
			cli.Output("text", "json"),
		}, cli.LogFlags(cli.LogText)),
		Action: publishAction,
	}
}

var publishDescription = `Reads both documents from the API server, checks them, points jwks_uri to the
public issuer and writes what differs to each target. Keys that the cluster no
longer lists stay public for --grace, so that no live token loses its key.

Targets: ` + backends.Accepted() + `.
Credentials are those of the cloud's own tools and environment.
Where the issuer is itself a bucket's URL, --to may be left out.

Examples:
  # the current kubeconfig context, to the bucket that its issuer names
  oidc-publisher publish

  # what would be written?
  oidc-publisher publish --to 's3://my-issuer?region=eu-central-1' --dry-run

  # before the cluster exists, from its public key
  oidc-publisher publish --public-key sa.pub --issuer https://storage.googleapis.com/my-issuer

  # a leaked key
  oidc-publisher publish --revoke KEY_ID`

func publishAction(c *cli.Context) error {
	log, format := cli.Logger(c), c.String("output")
	publication, err := readPublication(c, false)
	if err != nil {
		return err
	}
	publisher, err := publication.publisher(nil)
	if err != nil {
		return err
	}
	publisher.DryRun, publisher.NoVerify, publisher.Log = c.Bool("dry-run"), c.Bool("no-verify"), log
	began := time.Now()
	if err := publication.openTargets(c.Context, publisher); err != nil {
		return err
	}
	defer closeTargets(publisher.Targets)
	publisher.Timeout -= time.Since(began) // --timeout bounds all steps together
	report, err := publisher.Publish(c.Context)
	if err != nil {
		return printFailure(c.App.Writer, format, publisher.DryRun, cli.Overtime(err, publication.timeout))
	}
	if c.Err() != nil {
		report.Proof = publish.Proof{} // incomplete: the run was interrupted
	}
	for i, target := range report.Targets {
		report.Targets[i].Err = cli.Overtime(target.Err, publication.timeout)
	}
	for _, warning := range warnings(report) {
		log.Warn(warning)
	}
	if format == "json" {
		err = cli.PrintJSON(c.App.Writer, publishJSON(report, publisher.DryRun))
	} else {
		err = printReport(c.App.Writer, report, publisher.DryRun)
	}
	if err != nil {
		return err
	}
	return cmp.Or(outcome(c.App.ErrWriter, report), c.Err())
}
