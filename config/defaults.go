package config

import (
	"time"

	"github.com/headgate/headgate"
)

var defaultDeadlines = map[headgate.Stage]time.Duration{
	headgate.StageBuild:    15 * time.Minute,
	headgate.StageTest:     30 * time.Minute,
	headgate.StageContract: 2 * time.Minute,
	headgate.StageReplay:   15 * time.Minute,
	headgate.StageGateD:    15 * time.Minute,
	headgate.StageRollout:  10 * time.Minute,
	headgate.StageFull:     10 * time.Minute,
	headgate.StageFeedback: 10 * time.Minute,
}

// defaults is what an empty description means; decoding overwrites it.
func defaults() Service {
	flag := Actuator{Kind: ActuatorFlag}
	return Service{
		Environments:  Environments{Staging: "staging", Production: "production"},
		TenantHeader:  "x-tenant-id",
		SessionHeader: "x-session-id",
		Components: Components{
			ModelConfig:     Component{Actuator: flag},
			RetrievalParams: Component{Actuator: flag},
			WorkflowVersion: Component{Actuator: flag},
			ReleaseVersion:  Component{Actuator: Actuator{Kind: ActuatorRouter}},
		},
		Targets:  Targets{HealthPath: "/healthz"},
		Stages:   Stages{Build: Command{Timeout: 10 * time.Minute}, Test: Command{Timeout: 20 * time.Minute}},
		Contract: Contract{OpenAPIPath: "/openapi.json"},
		Gates:    Gates{Window: 10 * time.Minute},
		Rollout: Rollout{
			EnabledProjectSizes: headgate.ProjectSizes(),
			HighRiskHITL:        true,
			OnBusy:              "wait",
		},
		Canary: Canary{
			BrokenGrace:          10 * time.Minute,
			ConsecutiveThreshold: 2,
			Assignment:           "split",
			SLOErrorRate:         0.01,
			KillErrorRate:        0.144, // 14.4 times the promise: the fast burn of a 30-day budget
		},
	}
}

// defaultReportTimeout bounds the command that makes a report.
const defaultReportTimeout = 10 * time.Minute
