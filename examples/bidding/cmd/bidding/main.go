// Command bidding is the reference service.
package main

import (
	"fmt"
	"os"

	"github.com/headgate/headgate/examples/bidding/cmd"
)

func main() {
	if err := cmd.Command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "bidding:", err)
		os.Exit(1)
	}
}
