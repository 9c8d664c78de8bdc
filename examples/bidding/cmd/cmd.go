// Package cmd is the command line of the reference service. The program
// examples/bidding/cmd/bidding runs it; another binary can mount it.
//
// It owns flags, process lifetime and composition, and no domain logic.
package cmd

import "github.com/spf13/cobra"

// Tenants are the demo's tenants. The last one is for staging: the dataset
// run and the replays use it, and no user traffic does.
var Tenants = []string{"acme", "borealis", "chengyuan", "dingxin", "staging"}

// Command returns the command tree "bidding": api, worker, serve, quality,
// selftest, package and tokens.
func Command() *cobra.Command {
	return &cobra.Command{
		Use:           "bidding",
		Short:         "The reference service: multi-tenant evaluation of bids",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
}
