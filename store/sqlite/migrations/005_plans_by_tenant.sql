-- +goose Up
-- A release id that only requests name is each tenant's own.
CREATE TABLE tenant_plans (
    tenant_id  TEXT NOT NULL,
    release_id TEXT NOT NULL,
    plan       TEXT NOT NULL,
    PRIMARY KEY (tenant_id, release_id)
);
INSERT INTO tenant_plans
SELECT CASE WHEN r.id IS NULL THEN 'default' ELSE COALESCE(json_extract(r.release, '$.tenant_id'), '') END, p.release_id, p.plan
FROM plans p LEFT JOIN releases r ON r.id = p.release_id;
DROP TABLE plans;
ALTER TABLE tenant_plans RENAME TO plans;
