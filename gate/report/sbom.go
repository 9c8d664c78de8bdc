package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// sbom is a bill of materials, of which only the presence counts. Its
// components include what it is the bill of, as SPDX has it.
type sbom struct {
	tool       Tool
	components int
	raw        []byte
}

func (b sbom) facts(Options) (Facts, error) {
	f := Facts{Tool: b.tool, Components: b.components, Verdict: headgate.Pass}
	if b.components == 0 {
		f.fail(headgate.Fail, gate.ToolNothingListed, "the bill of materials lists nothing")
	}
	return f, nil
}

func (b sbom) stored() ([]byte, error) { return b.raw, nil }

func isCycloneDX(d document) bool {
	return d.has("bomFormat") || d.root.Local == "bom" && strings.Contains(d.root.Space, "cyclonedx.org")
}

func decodeCycloneDX(d document, _ Options) (content, error) {
	if d.root.Local != "" {
		return cycloneDXFromXML(d)
	}
	var in struct {
		Format     string            `json:"bomFormat"`
		Spec       string            `json:"specVersion"`
		Components []json.RawMessage `json:"components"`
		Metadata   struct {
			Tools     json.RawMessage `json:"tools"`
			Component *struct{}       `json:"component"`
		} `json:"metadata"`
	}
	if err := decodeJSON(d.raw, &in); err != nil {
		return nil, err
	}
	if in.Format != "CycloneDX" || in.Spec == "" {
		return nil, errors.New("bomFormat and specVersion do not say CycloneDX")
	}
	b := sbom{cycloneDXTool(in.Metadata.Tools), len(in.Components), d.raw}
	if in.Metadata.Component != nil {
		b.components++
	}
	return b, nil
}

// cycloneDXTool reads metadata.tools: a list up to version 1.4, an object with
// components since 1.5.
func cycloneDXTool(raw json.RawMessage) Tool {
	var tools []Tool
	if json.Unmarshal(raw, &tools) != nil {
		var since15 struct {
			Components []Tool `json:"components"`
		}
		if json.Unmarshal(raw, &since15) != nil {
			return Tool{}
		}
		tools = since15.Components
	}
	if len(tools) == 0 {
		return Tool{}
	}
	return Tool{clip(tools[0].Name), clip(tools[0].Version)}
}

func cycloneDXFromXML(d document) (content, error) {
	if !isCycloneDX(d) {
		return nil, errors.New("is not a CycloneDX document")
	}
	type tool struct {
		Name    string `xml:"name"`
		Version string `xml:"version"`
	}
	var in struct {
		XMLName    xml.Name   `xml:"bom"`
		Tools      []tool     `xml:"metadata>tools>tool"`
		Since15    []tool     `xml:"metadata>tools>components>component"`
		Root       *struct{}  `xml:"metadata>component"`
		Components []struct{} `xml:"components>component"`
	}
	if err := decodeXML(d.raw, &in); err != nil {
		return nil, err
	}
	var t Tool
	if tools := append(in.Tools, in.Since15...); len(tools) > 0 {
		t = Tool{clip(tools[0].Name), clip(tools[0].Version)}
	}
	b := sbom{t, len(in.Components), d.raw}
	if in.Root != nil {
		b.components++
	}
	return b, nil
}

func isSPDX(d document) bool {
	return d.has("spdxVersion") || d.has("@graph", "@context") && bytes.Contains(d.object["@context"], []byte("spdx")) ||
		bytes.HasPrefix(d.raw, []byte("SPDXVersion:"))
}

func decodeSPDX(d document, _ Options) (content, error) {
	switch {
	case d.has("@graph"):
		return spdx3(d)
	case bytes.HasPrefix(d.raw, []byte("SPDXVersion:")):
		return spdxTagValue(d)
	}
	var in struct {
		Version  string            `json:"spdxVersion"`
		Packages []json.RawMessage `json:"packages"`
		Creation struct {
			Creators []string `json:"creators"`
		} `json:"creationInfo"`
	}
	if err := decodeJSON(d.raw, &in); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(in.Version, "SPDX-2.") {
		return nil, errors.New("spdxVersion: only SPDX-2.x, and 3 as JSON-LD, are known")
	}
	b := sbom{components: len(in.Packages), raw: d.raw}
	for _, c := range in.Creation.Creators {
		b.creator(c)
	}
	return b, nil
}

// creator takes the tool from "Tool: syft-1.2.0".
func (b *sbom) creator(c string) {
	name, ok := strings.CutPrefix(c, "Tool: ")
	if !ok || b.tool.Name != "" {
		return
	}
	b.tool.Name = clip(name)
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		b.tool = Tool{clip(name[:i]), clip(name[i+1:])}
	}
}

func spdx3(d document) (content, error) {
	var graph []struct {
		Type string `json:"type"`
		Name string `json:"name"`
	}
	if err := decodeJSON(d.object["@graph"], &graph); err != nil {
		return nil, err
	}
	b := sbom{raw: d.raw}
	for _, e := range graph {
		switch e.Type {
		case "software_Package":
			b.components++
		case "Tool":
			b.creator("Tool: " + e.Name)
		}
	}
	return b, nil
}

func spdxTagValue(d document) (content, error) {
	b := sbom{raw: d.raw}
	for line := range bytes.Lines(d.raw) {
		tag, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		switch tag {
		case "PackageName":
			b.components++
		case "Creator":
			b.creator(strings.TrimSpace(value))
		}
	}
	return b, nil
}
