-- +goose Up
-- Who asked to release a digest that is in quarantine; '' for nobody.
ALTER TABLE quarantine ADD COLUMN requested_by TEXT NOT NULL DEFAULT '';
ALTER TABLE quarantine ADD COLUMN requested_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE quarantine ADD COLUMN reason TEXT NOT NULL DEFAULT '';
