package main

import (
	"fmt"
	"time"

	"github.com/headgate/headgate/client"
)

// showRoutes prints what each route did on both versions.
func (a *app) showRoutes(rep client.RouteReport) error {
	since := "since the routers started, earlier canaries included"
	if !rep.From.IsZero() {
		since = "since " + rep.From.Local().Format(time.DateTime)
	}
	if len(rep.Routes) == 0 {
		_, err := fmt.Fprintf(a.stdout, "no request of an admitted tenant %s\n", since)
		return err
	}
	rows := make([][]string, len(rep.Routes))
	for i, r := range rep.Routes {
		rows[i] = []string{r.Route, thousands(r.Candidate.Requests), failedShare(r.Candidate), p95(r.Candidate), thousands(r.Stable.Requests), failedShare(r.Stable), p95(r.Stable)}
	}
	if err := a.table([]string{"ROUTE", "CANDIDATE", "FAILED", "P95", "STABLE", "FAILED", "P95"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "\nrequests %s, the worst route for the candidate first; headgate errors --release %s says what failed\n", since, rep.ReleaseID)
	return err
}

func failedShare(r client.RouteArm) string {
	if r.Errors == 0 {
		return "0"
	}
	return thousands(r.Errors) + " (" + percent(float64(r.Errors)/float64(r.Requests)) + ")"
}

func p95(r client.RouteArm) string {
	switch {
	case r.Requests == 0:
		return "–"
	case r.P95 >= 500:
		return "no answer"
	case r.P95 < 1:
		return fmt.Sprintf("%.3g ms", r.P95*1000)
	}
	return fmt.Sprintf("%.3g s", r.P95)
}
