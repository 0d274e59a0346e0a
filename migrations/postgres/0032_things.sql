-- migrate:up
-- Every kind of thing that requests name, for grants that are limited to own or named things: the
-- thing's id with the ids of what it is a part of, and who made it (NULL: nobody in particular).
-- Under the row policies of who asks. One kind is planned, not all of them.
SET ROLE chimera_owner;
CREATE OR REPLACE FUNCTION identity.find_thing(kind text, thing_id uuid) RETURNS TABLE (ids uuid[], owner_id uuid)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    CASE kind
    WHEN 'campaign' THEN RETURN QUERY
        SELECT ARRAY[c.id], c.created_by FROM campaigns.campaigns c WHERE c.id = thing_id;
    WHEN 'run' THEN RETURN QUERY
        SELECT ARRAY[r.id, c.id], c.created_by
          FROM campaigns.runs r JOIN campaigns.campaigns c ON c.id = r.campaign_id WHERE r.id = thing_id;
    WHEN 'scoring' THEN RETURN QUERY
        SELECT ARRAY[s.id, r.id, c.id], c.created_by
          FROM campaigns.scorings s JOIN campaigns.runs r ON r.id = s.run_id
          JOIN campaigns.campaigns c ON c.id = r.campaign_id WHERE s.id = thing_id;
    WHEN 'template' THEN RETURN QUERY
        SELECT ARRAY[t.id], t.created_by FROM templates.templates t WHERE t.id = thing_id;
    WHEN 'suite' THEN RETURN QUERY
        SELECT ARRAY[s.id], s.created_by FROM campaigns.technique_suites s WHERE s.id = thing_id;
    WHEN 'dataset' THEN RETURN QUERY
        SELECT ARRAY[d.id], d.created_by FROM templates.datasets d WHERE d.id = thing_id;
    WHEN 'provider' THEN RETURN QUERY
        SELECT ARRAY[p.id], p.created_by FROM providers.providers p WHERE p.id = thing_id;
    WHEN 'model' THEN RETURN QUERY
        SELECT ARRAY[m.id, p.id], p.created_by
          FROM providers.models m JOIN providers.providers p ON p.id = m.provider_id WHERE m.id = thing_id;
    WHEN 'price_version' THEN RETURN QUERY
        SELECT ARRAY[v.id, m.id, p.id], p.created_by
          FROM providers.price_versions v JOIN providers.models m ON m.id = v.model_id
          JOIN providers.providers p ON p.id = m.provider_id WHERE v.id = thing_id;
    WHEN 'provider_key' THEN RETURN QUERY
        SELECT ARRAY[k.id, k.provider_id], k.user_id FROM providers.provider_keys k WHERE k.id = thing_id;
    WHEN 'route' THEN RETURN QUERY
        SELECT ARRAY[r.id], r.created_by FROM providers.routes r WHERE r.id = thing_id;
    WHEN 'budget' THEN RETURN QUERY
        SELECT ARRAY[b.id, b.scope_id], coalesce(b.owner_id, b.set_by) FROM accounting.budgets b WHERE b.id = thing_id;
    WHEN 'alert' THEN RETURN QUERY
        SELECT ARRAY[a.id, a.budget_id, a.scope_id], a.user_id FROM accounting.alerts a WHERE a.id = thing_id;
    WHEN 'webhook' THEN RETURN QUERY
        SELECT ARRAY[w.id], w.created_by FROM accounting.webhooks w WHERE w.id = thing_id;
    WHEN 'delivery' THEN RETURN QUERY
        SELECT ARRAY[d.id, w.id], w.created_by
          FROM accounting.deliveries d JOIN accounting.webhooks w ON w.id = d.webhook_id WHERE d.id = thing_id;
    WHEN 'dead_letter' THEN RETURN QUERY
        SELECT ARRAY[l.id, l.batch_id], NULL::uuid FROM telemetry.dead_letters l WHERE l.id = thing_id;
    WHEN 'team' THEN RETURN QUERY
        SELECT ARRAY[t.id], t.created_by FROM identity.teams t WHERE t.id = thing_id;
    WHEN 'user' THEN RETURN QUERY
        SELECT ARRAY[u.id], u.id FROM identity.users u WHERE u.id = thing_id;
    WHEN 'api_key' THEN RETURN QUERY
        SELECT ARRAY[k.id, k.user_id], k.user_id FROM identity.api_keys k WHERE k.id = thing_id;
    WHEN 'invitation' THEN RETURN QUERY
        SELECT ARRAY[i.id], i.created_by FROM identity.invitations i WHERE i.id = thing_id;
    WHEN 'role' THEN RETURN QUERY
        SELECT ARRAY[r.id], r.created_by FROM identity.roles r WHERE r.id = thing_id;
    WHEN 'grant' THEN RETURN QUERY
        SELECT ARRAY[g.id, g.role_id], g.granted_by FROM identity.grants g WHERE g.id = thing_id;
    WHEN 'sign_in_provider' THEN RETURN QUERY
        SELECT ARRAY[p.id], p.created_by FROM identity.sign_in_providers p WHERE p.id = thing_id;
    WHEN 'change' THEN RETURN QUERY
        SELECT ARRAY[c.id], c.changed_by FROM audit.configuration_changes c WHERE c.id = thing_id;
    WHEN 'legal_hold' THEN RETURN QUERY
        SELECT ARRAY[h.id], h.placed_by FROM audit.legal_holds h WHERE h.id = thing_id;
    WHEN 'finding' THEN RETURN QUERY
        SELECT ARRAY[f.id], NULL::uuid FROM audit.findings f WHERE f.id = thing_id;
    END CASE;
END $$;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
CREATE OR REPLACE FUNCTION identity.find_thing(kind text, thing_id uuid) RETURNS TABLE (ids uuid[], owner_id uuid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY[c.id], c.created_by FROM campaigns.campaigns c WHERE kind = 'campaign' AND c.id = thing_id
    UNION ALL
    SELECT ARRAY[r.id, c.id], c.created_by FROM campaigns.runs r JOIN campaigns.campaigns c ON c.id = r.campaign_id
     WHERE kind = 'run' AND r.id = thing_id
    UNION ALL
    SELECT ARRAY[t.id], t.created_by FROM templates.templates t WHERE kind = 'template' AND t.id = thing_id
    UNION ALL
    SELECT ARRAY[p.id], p.created_by FROM providers.providers p WHERE kind = 'provider' AND p.id = thing_id
    UNION ALL
    SELECT ARRAY[m.id, p.id], p.created_by FROM providers.models m JOIN providers.providers p ON p.id = m.provider_id
     WHERE kind = 'model' AND m.id = thing_id
    UNION ALL
    SELECT ARRAY[k.id, k.provider_id], k.user_id FROM providers.provider_keys k
     WHERE kind = 'provider_key' AND k.id = thing_id
    UNION ALL
    SELECT ARRAY[t.id], t.created_by FROM identity.teams t WHERE kind = 'team' AND t.id = thing_id
$$;
RESET ROLE;
