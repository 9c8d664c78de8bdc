-- +goose Up
-- Rules hold for one service, or, when service is '', for every service that
-- has none of its own. Of each service the one with the highest rank is in
-- force.
ALTER TABLE rule_changes ADD COLUMN service TEXT NOT NULL DEFAULT '';
