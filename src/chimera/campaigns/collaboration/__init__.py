"""Working together on campaigns: levels, shares, visibility, labels, comments.

Nouns: a *level* is what somebody may do with a campaign: view < comment < edit < execute < admin. Its
maker and who holds CAMPAIGN_MANAGE are at admin; *visibility* (team, organisation) puts its people at
execute, and a public campaign puts other organisations at view; a *share* puts one person or team at a
level until it expires.

What must stay true:
* PostgreSQL decides. The policy `seen` of campaigns.campaigns says who sees a campaign; what belongs to
  a campaign is seen by whoever sees it, and changed at the level it takes (campaigns.may). A table more
  under a run or a campaign needs those policies, as in migrations/postgres/0030_sharing.sql.
* The permissions of the caller's role apply as well, at the gate: both must allow.
* Nothing is public but by set_public, which takes the permission CAMPAIGN_MANAGE.
* A share ends at its moment without anybody doing anything.
* The books see all: accounting and a person's own data are read with Tx.see_all_campaigns, and say
  nothing about what is in a campaign.
* What an organisation says about a campaign (comments, shares) stays inside it.

levels.py is below operations.py and runs.py; the other modules here are above them.
"""
