package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"sync"

	"oidc-publisher/internal/kubeerr"
)

const (
	// maxEndpoints bounds the servers of one Fetch. Control planes have 1 to 7.
	maxEndpoints = 32
	// maxRounds bounds how often the endpoints are read again while they change.
	maxRounds = 3
)

// sliceList is the part that we use of an EndpointSliceList
// (discovery.k8s.io/v1).
type sliceList struct {
	Items []struct {
		AddressType string `json:"addressType"`
		Endpoints   []struct {
			Addresses  []string `json:"addresses"`
			Conditions struct {
				Ready *bool `json:"ready"`
			} `json:"conditions"`
		} `json:"endpoints"`
		Ports []struct {
			Name string `json:"name"`
			Port int    `json:"port"`
		} `json:"ports"`
	} `json:"items"`
}

var endpointsRule = kubeerr.Rule{
	Role: "oidc-publisher-endpoints", Verbs: []string{"get", "list"}, Resource: "endpointslices.discovery.k8s.io", Namespace: "default",
}

// endpoints returns the addresses of all ready API servers, sorted.
func (s *Source) endpoints(ctx context.Context) ([]netip.AddrPort, error) {
	r := request{
		path:  "apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
		query: url.Values{"labelSelector": {"kubernetes.io/service-name=kubernetes"}},
		allow: endpointsRule.Allow,
	}
	a, err := s.home.get(ctx, r)
	if err != nil {
		return nil, err
	}
	var list sliceList
	if err := s.home.decode(r, a, &list); err != nil {
		return nil, err
	}
	found, err := list.addresses()
	if err != nil {
		return nil, fmt.Errorf("API server %s: endpoints of the service default/kubernetes: %w", s.home.Address(), err)
	}
	return found, nil
}

func (l sliceList) addresses() ([]netip.AddrPort, error) {
	var found []netip.AddrPort
	for _, slice := range l.Items {
		port := 0
		for _, p := range slice.Ports {
			if p.Name == "https" || len(slice.Ports) == 1 {
				port = p.Port
			}
		}
		for _, endpoint := range slice.Endpoints {
			if ready := endpoint.Conditions.Ready; ready != nil && !*ready {
				continue // absent means ready, says the API
			}
			for _, address := range endpoint.Addresses {
				ip, err := netip.ParseAddr(address)
				if err != nil || port < 1 || port > 65535 {
					return nil, fmt.Errorf("%.100q with port %d is not an IP address with an https port", address, port)
				}
				found = append(found, netip.AddrPortFrom(ip, uint16(port)))
			}
		}
	}
	slices.SortFunc(found, netip.AddrPort.Compare)
	found = slices.Compact(found)
	switch {
	case len(found) == 0:
		return nil, errors.New("none is ready: without --all-api-servers only the kubeconfig's server is used")
	case len(found) > maxEndpoints:
		return nil, fmt.Errorf("there are %d, more than the limit of %d", len(found), maxEndpoints)
	}
	return found, nil
}

// fetchFromAll fetches from every endpoint. A failed one is an error, unless it
// is no longer among the endpoints: it may be the only server that still
// publishes the key of a live token.
func (s *Source) fetchFromAll(ctx context.Context) ([]view, []string, error) {
	var warnings []string
	views := map[netip.AddrPort]view{}
	endpoints, err := s.endpoints(ctx)
	if err != nil {
		return nil, nil, err
	}
	for range maxRounds {
		failed := s.fetchFromEach(ctx, endpoints, views)
		if len(failed) == 0 {
			return s.keepOnly(views), warnings, nil
		}
		if endpoints, err = s.endpoints(ctx); err != nil {
			return nil, nil, err
		}
		var faults []error
		for _, address := range sortedKeys(failed) {
			if slices.Contains(endpoints, address) {
				faults = append(faults, failed[address])
				continue
			}
			warnings = append(warnings, fmt.Sprintf("API server %s left the endpoints of the service default/kubernetes before it answered", address))
		}
		if len(faults) > 0 {
			return nil, nil, errors.Join(faults...)
		}
	}
	return nil, nil, fmt.Errorf("the endpoints of the service default/kubernetes changed %d times during the fetch: try again when the control plane is stable", maxRounds)
}

// fetchFromEach fetches from the endpoints that have not answered yet, in
// parallel.
func (s *Source) fetchFromEach(ctx context.Context, endpoints []netip.AddrPort, views map[netip.AddrPort]view) map[netip.AddrPort]error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	failed := map[netip.AddrPort]error{}
	waiting := slices.DeleteFunc(slices.Clone(endpoints), func(endpoint netip.AddrPort) bool {
		_, done := views[endpoint]
		return done
	})
	for _, endpoint := range waiting {
		wg.Go(func() {
			at := &url.URL{Scheme: "https", Host: endpoint.String()}
			v, err := s.fetchFrom(ctx, s.server(at, s.direct...))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[endpoint] = err
				return
			}
			views[endpoint] = v
		})
	}
	wg.Wait()
	return failed
}

// keepOnly drops the answers of servers that are gone, and returns the others.
func (s *Source) keepOnly(views map[netip.AddrPort]view) []view {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.views)
	var all []view
	for _, address := range sortedKeys(views) {
		all = append(all, views[address])
		s.views[views[address].address] = views[address]
	}
	return all
}

func sortedKeys[V any](m map[netip.AddrPort]V) []netip.AddrPort {
	return slices.SortedFunc(maps.Keys(m), netip.AddrPort.Compare)
}
