package config

import (
	"os"
	"path/filepath"
)

// Load reads and checks the service description at path. The error is a
// CONFIG_INVALID [headgate.Error] that lists every problem with its line.
func Load(path string) (Service, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Service{}, invalidf("service description: %w", err)
	}
	s, err := Parse(path, data)
	if err != nil {
		return Service{}, err
	}
	s.resolvePaths(filepath.Dir(path))
	return s, nil
}

// Parse checks a service description; file names it in messages and is not
// read. Paths stay as written.
func Parse(file string, data []byte) (Service, error) {
	doc, found := parseDocument(file, data)
	if doc == nil {
		return Service{}, found.err()
	}
	return doc.service(found)
}
