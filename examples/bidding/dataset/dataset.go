// Package dataset holds the tender, the bids and what a person found in them:
// the labelled samples on which the service's quality is computed.
//
// It owns the embedded files only and never talks to the service.
package dataset

import (
	"bytes"
	"embed"
	"fmt"
	"path"

	"github.com/goccy/go-yaml"
)

//go:embed v1.0.0
var files embed.FS

// Dataset is one version of documents and labels.
type Dataset struct {
	ID              string     `yaml:"dataset_id"`
	Version         string     `yaml:"version"`
	RulePackVersion string     `yaml:"rule_pack_version"`
	Project         string     `yaml:"project"`
	Documents       []Document `yaml:"documents"`
	Samples         []Sample   `yaml:"samples"`
}

// Document is a file to upload.
type Document struct {
	File     string `yaml:"file"`
	DocType  string `yaml:"doc_type"`
	Supplier string `yaml:"supplier"`
	Data     []byte `yaml:"-"`
}

// Sample is the right answer to one criterion for one supplier.
type Sample struct {
	Supplier  string `yaml:"supplier"`
	Criterion string `yaml:"criterion"`
	// Value is the right value; Evidence the verbatim passages that hold it.
	Value    string   `yaml:"value"`
	Evidence []string `yaml:"evidence"`
	// Absent says that the bid does not state it.
	Absent bool `yaml:"absent"`
	// Reference is a person's answer.
	Reference string `yaml:"reference"`
}

// Load returns the current dataset, v1.0.0.
func Load() (Dataset, error) {
	const root = "v1.0.0"
	data, err := files.ReadFile(path.Join(root, "labels.yaml"))
	if err != nil {
		return Dataset{}, fmt.Errorf("dataset: %w", err)
	}
	var d Dataset
	if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&d); err != nil {
		return Dataset{}, fmt.Errorf("dataset %s: %w", root, err)
	}
	for i := range d.Documents {
		if d.Documents[i].Data, err = files.ReadFile(path.Join(root, d.Documents[i].File)); err != nil {
			return Dataset{}, fmt.Errorf("dataset %s: %w", root, err)
		}
	}
	return d, nil
}

// Bids returns the documents that suppliers handed in.
func (d Dataset) Bids() []Document {
	var out []Document
	for _, doc := range d.Documents {
		if doc.DocType == "bid" {
			out = append(out, doc)
		}
	}
	return out
}
