package dictionary

import (
	"encoding/json"
	"fmt"
	"strings"
)

// dashboard is the part of Grafana's dashboard model that is needed here.
type dashboard struct {
	UID           string     `json:"uid"`
	Title         string     `json:"title"`
	Tags          []string   `json:"tags"`
	SchemaVersion int        `json:"schemaVersion"`
	Refresh       string     `json:"refresh"`
	Time          timeRange  `json:"time"`
	Templating    templating `json:"templating"`
	Panels        []panel    `json:"panels"`
}

type timeRange struct {
	From string `json:"from"`
	To   string `json:"to"`
}

type templating struct {
	List []variable `json:"list"`
}

type variable struct {
	Name       string      `json:"name"`
	Label      string      `json:"label,omitempty"`
	Type       string      `json:"type"`
	Query      string      `json:"query"`
	Datasource *datasource `json:"datasource,omitempty"`
	Refresh    int         `json:"refresh,omitempty"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type panel struct {
	ID          int          `json:"id"`
	Type        string       `json:"type"`
	Title       string       `json:"title"`
	Description string       `json:"description,omitempty"`
	GridPos     gridPos      `json:"gridPos"`
	Datasource  *datasource  `json:"datasource,omitempty"`
	Targets     []target     `json:"targets,omitempty"`
	FieldConfig *fieldConfig `json:"fieldConfig,omitempty"`
}

type gridPos struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

type target struct {
	RefID        string `json:"refId"`
	Expr         string `json:"expr"`
	LegendFormat string `json:"legendFormat"`
}

type fieldConfig struct {
	Defaults struct {
		Unit       string     `json:"unit"`
		Thresholds thresholds `json:"thresholds"`
	} `json:"defaults"`
	Overrides []struct{} `json:"overrides"`
}

type thresholds struct {
	Mode  string `json:"mode"`
	Steps []step `json:"steps"`
}

type step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"`
}

// prometheusVariable is the dashboard's choice of data source.
var prometheusVariable = &datasource{Type: "prometheus", UID: "${datasource}"}

// Dashboards returns Grafana dashboards by file name: every figure by version
// and every figure by tenant, in groups, with the alerts' bounds drawn in.
func (d *Dictionary) Dashboards() (map[string][]byte, error) {
	out := make(map[string][]byte, 2)
	for _, v := range []struct{ uid, title, by string }{
		{"headgate-versions", "Headgate: by version", "service_version"},
		{"headgate-tenants", "Headgate: by tenant", "tenant_id"},
	} {
		board, err := d.dashboard(v.uid, v.title, v.by)
		if err != nil {
			return nil, err
		}
		text, err := json.MarshalIndent(board, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("write dashboard: %w", err)
		}
		out[v.uid+".json"] = append(text, '\n')
	}
	return out, nil
}

func (d *Dictionary) dashboard(uid, title, by string) (dashboard, error) {
	const width, height = 12, 8
	requests, _ := d.Metric(d.namespace + ".api.request.duration")
	values := func(label string) string {
		return fmt.Sprintf("label_values(%s_count, %s)", requests.Prometheus, label)
	}
	board := dashboard{
		UID: uid, Title: title, Tags: []string{"headgate"}, SchemaVersion: 39, Refresh: "30s",
		Time: timeRange{From: "now-1h", To: "now"},
		Templating: templating{List: []variable{
			{Name: "datasource", Type: "datasource", Query: "prometheus"},
			{Name: "service", Type: "query", Query: values("service_name"), Datasource: prometheusVariable, Refresh: 2},
			{Name: "environment", Type: "query", Query: values("deployment_environment_name"), Datasource: prometheusVariable, Refresh: 2},
		}},
	}
	group, x, y := "", 0, 0
	for _, f := range d.Figures() {
		if f.Group != group {
			if x > 0 {
				x, y = 0, y+height
			}
			group = f.Group
			board.Panels = append(board.Panels, panel{
				ID: len(board.Panels) + 1, Type: "row", Title: strings.ReplaceAll(group, "_", " "), GridPos: gridPos{H: 1, W: 2 * width, Y: y},
			})
			y++
		}
		expr, err := d.QueryBy(f.Name, Scope{Service: "$service", Environment: "$environment"}, by)
		if err != nil {
			return dashboard{}, err
		}
		board.Panels = append(board.Panels, panel{
			ID: len(board.Panels) + 1, Type: "timeseries", Title: f.Name, Description: f.Brief,
			GridPos: gridPos{H: height, W: width, X: x, Y: y}, Datasource: prometheusVariable,
			Targets:     []target{{RefID: "A", Expr: expr, LegendFormat: "{{" + by + "}}"}},
			FieldConfig: d.fieldConfig(f),
		})
		if x += width; x == 2*width {
			x, y = 0, y+height
		}
	}
	return board, nil
}

func (d *Dictionary) fieldConfig(f Figure) *fieldConfig {
	c := &fieldConfig{Overrides: []struct{}{}}
	c.Defaults.Unit = grafanaUnit(f)
	c.Defaults.Thresholds = thresholds{Mode: "absolute", Steps: []step{{Color: "green"}}}
	for _, a := range d.alerts {
		if a.Figure == f.Name && a.Op == ">" {
			c.Defaults.Thresholds.Steps = append(c.Defaults.Thresholds.Steps, step{Color: "red", Value: &a.Bound})
		}
		if a.Figure == f.Name && a.Op == "<" {
			c.Defaults.Thresholds.Steps = []step{{Color: "red"}, {Color: "green", Value: &a.Bound}}
		}
	}
	return c
}

// grafanaUnit translates UCUM to Grafana's unit ids.
func grafanaUnit(f Figure) string {
	switch f.Unit {
	case "s":
		return "s"
	case "1":
		return "percentunit"
	case "{USD}":
		return "currencyUSD"
	case "{request}/s":
		return "reqps"
	}
	return "short"
}
