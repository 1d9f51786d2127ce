package main

import (
	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/exchange"
	"oidc-publisher/federation/explain"
	"oidc-publisher/internal/cli"
)

func cloudsmithService() exchangeService {
	return exchangeService{ //nolint:gosec // G101: names and examples
		name: "cloudsmith", title: "Cloudsmith", flags: cloudsmithFlags, target: cloudsmithTarget,
		registries: []string{"docker.cloudsmith.io"},
		variables:  []string{"CLOUDSMITH_API_KEY"},
		exchangeExamples: `
  # in a pod with a projected token
  oidc-publisher exchange cloudsmith --org acme --service-slug puller

  # from outside, for docker
  oidc-publisher exchange cloudsmith --org acme --service-slug puller \
    --mint team/puller --audience https://api.cloudsmith.io --output docker-config > config.json`,
		pullSecretExamples: `
  # as a CronJob that has nothing to do in most of its runs
  oidc-publisher pull-secret cloudsmith --org acme --service-slug puller \
    --secret-name cloudsmith --all-namespaces --min-remaining 45m

  # as a Deployment, which serves new namespaces at once
  oidc-publisher pull-secret cloudsmith --org acme --service-slug puller \
    --secret-name cloudsmith --namespace-selector images=private --refresh --leader-elect`,
	}
}

// cloudsmithFlags also accept the environment variables of Cloudsmith's tools.
func cloudsmithFlags() []cli.Flag {
	org := cli.String("org", "", "`SLUG` of the Cloudsmith organisation (workspace)")
	org.EnvVars = append(org.EnvVars, "CLOUDSMITH_ORG", "CLOUDSMITH_ORG_SLUG")
	service := cli.String("service-slug", "", "`SLUG` of the Cloudsmith service account")
	service.EnvVars = append(service.EnvVars, "CLOUDSMITH_SERVICE_SLUG")
	return cli.InCategory(categoryService, org, service,
		cli.String("cloudsmith-url", exchange.CloudsmithURL, "base `URL` of Cloudsmith's API"))
}

func cloudsmithTarget(c *cli.Context) (exchangeTarget, error) {
	config := exchange.CloudsmithConfig{Org: c.String("org"), Service: c.String("service-slug"), URL: c.String("cloudsmith-url")}
	switch {
	case config.Org == "":
		return exchangeTarget{}, cli.Usagef("--org is missing")
	case config.Service == "":
		return exchangeTarget{}, cli.Usagef("--service-slug is missing")
	}
	exchanger, err := exchange.Cloudsmith(config)
	if err != nil {
		return exchangeTarget{}, cli.Usagef("%v", err)
	}
	return exchangeTarget{
		exchanger: exchanger,
		owner:     "cloudsmith/" + config.Org + "/" + config.Service,
		source:    config.URL,
		explain:   explain.Options{Service: verify.Cloudsmith, Org: config.Org, ServiceSlug: config.Service},
	}, nil
}
