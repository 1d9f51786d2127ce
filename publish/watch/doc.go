// Package watch keeps an issuer published: it runs a publish.Publisher for as
// long as it lives, one replica at a time where leaders are elected, looks at
// the public side as a relying party does, and says in logs, metrics and health
// endpoints how it fares.
package watch
