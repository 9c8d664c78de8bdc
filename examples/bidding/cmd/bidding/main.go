// Command bidding is the reference service.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/headgate/headgate/examples/bidding/cmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := cmd.Command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bidding:", err)
		stop()
		os.Exit(1)
	}
}
