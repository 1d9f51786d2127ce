package main

import (
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"oidc-publisher/federation/pullsecret"
	"oidc-publisher/internal/cli"
	"oidc-publisher/internal/httpx"
)

// The JSON form of a pass: a contract with scripts.
type pullJSON struct {
	Secret    string     `json:"secret"`
	Owner     string     `json:"owner"`
	DryRun    bool       `json:"dry_run"`
	Exchanged bool       `json:"exchanged"`
	Expiry    *time.Time `json:"expiry"` // null if no token was exchanged, or the service does not state it

	Namespaces []pullNamespaceJSON `json:"namespaces"`
	Error      string              `json:"error,omitempty"`
}

type pullNamespaceJSON struct {
	Namespace string     `json:"namespace"`
	Outcome   string     `json:"outcome"`
	Expiry    *time.Time `json:"expiry"` // of the secret, null if that is not known
	Accounts  []string   `json:"service_accounts"`
	Error     string     `json:"error,omitempty"`
}

func printPullReport(w io.Writer, format string, job *pullsecret.Job, report pullsecret.Report, failed error) error {
	if format == "json" {
		return cli.PrintJSON(w, pullReportJSON(job, report, failed))
	}
	if len(report.Results) == 0 {
		return nil
	}
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "NAMESPACE\tSECRET\tOUTCOME\tEXPIRES\tSERVICE ACCOUNTS")
	for _, r := range report.Results {
		expiry := "-"
		if t := shownExpiry(r); t != nil {
			expiry = t.Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", cli.Printable(r.Namespace), job.Secret.Name, outcomeText(r.Outcome, job.DryRun), expiry, accountsOf(r))
	}
	_ = table.Flush() // a Builder takes everything
	_, err := io.WriteString(w, trailingSpace.ReplaceAllString(out.String(), ""))
	return err
}

var trailingSpace = regexp.MustCompile(`(?m) +$`)

func outcomeText(o pullsecret.Outcome, dryRun bool) string {
	if dryRun && o != pullsecret.Unchanged && o != pullsecret.Skipped && o != pullsecret.Refused && o != pullsecret.Failed {
		return string(o) + " (dry run)"
	}
	return string(o)
}

// accountsOf lists the service accounts that were attached or detached, and
// those that failed.
func accountsOf(r pullsecret.Result) string {
	names := slices.Clone(r.Accounts)
	for _, failed := range r.Unattached {
		why := "failed"
		if failed.Absent {
			why = "does not exist"
		}
		names = append(names, failed.Account+" ("+why+")")
	}
	return strings.Join(names, ",")
}

// shownExpiry omits the expiry of a credential that was not written.
func shownExpiry(r pullsecret.Result) *time.Time {
	if r.Outcome == pullsecret.Refused || r.Outcome == pullsecret.Failed || r.Outcome == pullsecret.Skipped {
		return nil
	}
	return orNull(r.Expiry)
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

func pullReportJSON(job *pullsecret.Job, report pullsecret.Report, failed error) pullJSON {
	out := pullJSON{
		Secret: job.Secret.Name, Owner: job.Secret.Owner, DryRun: job.DryRun,
		Exchanged: report.Exchanged, Expiry: orNull(report.Expiry), Namespaces: []pullNamespaceJSON{},
	}
	if failed != nil {
		out.Error = httpx.MaskTokens(failed.Error())
	}
	for _, r := range report.Results {
		one := pullNamespaceJSON{Namespace: r.Namespace, Outcome: string(r.Outcome), Expiry: shownExpiry(r), Accounts: append([]string{}, r.Accounts...)}
		if r.Err != nil {
			one.Error = httpx.MaskTokens(r.Err.Error())
		}
		out.Namespaces = append(out.Namespaces, one)
	}
	return out
}

// warnOfPullSecrets logs which secrets were taken over, and warns if every run
// exchanges the token: each exchange sends it and counts against the service's
// limits.
func warnOfPullSecrets(log *slog.Logger, job *pullsecret.Job, report pullsecret.Report) {
	switch least := job.MinRemaining; {
	case least == 0 || !report.Exchanged:
	case report.Expiry.IsZero():
		log.Warn("the service does not say when the credential expires, so every run exchanges again: leave --min-remaining out, or use --refresh")
	case report.Life <= least:
		log.Warn("--min-remaining is at least the credential's whole lifetime, so every run exchanges again: give a little more than the time between two runs",
			"life", report.Life.Round(time.Second), "min_remaining", least)
	}
	message := "secret taken over from another owner"
	if job.DryRun {
		message = "secret would be taken over from another owner"
	}
	for _, r := range report.Results {
		if r.Outcome == pullsecret.TakenOver || r.Outcome == pullsecret.Replaced {
			log.Warn(message, "namespace", r.Namespace, "secret", job.Secret.Name, "outcome", r.Outcome)
		}
	}
}

// pullVerdict prints the failures and returns the error with the exit code.
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

// pullSecretProgress shows the progress on a terminal.
func pullSecretProgress(stderr io.Writer) (progress func(done, of int), clearLine func()) {
	if !cli.IsTerminal(stderr) {
		return nil, func() {}
	}
	return func(done, of int) {
			if done%10 == 0 || done == of {
				_, _ = fmt.Fprintf(stderr, "\r%d of %d namespaces", done, of)
			}
		}, func() {
			_, _ = fmt.Fprint(stderr, "\r\x1b[K")
		}
}
