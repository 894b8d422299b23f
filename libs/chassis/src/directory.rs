//! What service tenant and agents say of servers, in the mesh's own words.

use proto::{
    agent::v1::{Descent, TablesResponse, descent::Kind},
    change::v1::Coverage,
    common::v1 as common,
    tenant::v1 as pb,
};
use types::{
    Role,
    access::{Effect, Lineage, Pattern, Rule, Target, columns},
};

/// Where tables came from, as an agent says. Where it does not say all, or what cannot be read, nothing is known.
pub fn lineage(held: &TablesResponse) -> Lineage {
    let mut known = Lineage::default();
    if held.descents_left_out
        || held
            .descents
            .iter()
            .any(|one| descended(&mut known, one).is_none())
    {
        return Lineage::unknown();
    }
    known
}

fn descended(known: &mut Lineage, one: &Descent) -> Option<()> {
    let (from, to) = (one.from.as_ref()?, one.to.as_ref()?);
    let (from, to) = (
        (from.schema.as_str(), from.table.as_str()),
        (to.schema.as_str(), to.table.as_str()),
    );
    match one.kind() {
        Kind::Rows => known.renamed(from, to),
        Kind::Definition => known.made_like(from, to),
        Kind::Column => known.column(to, &one.column_from, &one.column_to),
        Kind::Unspecified => return None,
    }
    Some(())
}

/// Why an answer is incomplete, in place of an agent's words: they may name any table, so they are for who sees everything.
pub const UNREAD: &str = "a part of the log that was asked for was not read";

/// Takes an agent's words out of what an answer rests on.
pub fn plain_coverage(coverage: &mut Coverage) {
    if !coverage.because.is_empty() {
        UNREAD.clone_into(&mut coverage.because);
    }
    coverage.gaps.iter_mut().for_each(|gap| gap.reason.clear());
}

/// Access rules as service tenant sends them. None if one of them cannot be read: then nothing may be shown, since it may be one that hides.
pub fn access_rules(rules: &[pb::AccessRule]) -> Option<Vec<Rule>> {
    rules.iter().map(rule).collect()
}

fn rule(rule: &pb::AccessRule) -> Option<Rule> {
    let server = match rule.server_id.as_str() {
        "" => None,
        id => Some(id.parse().ok()?),
    };
    Some(Rule {
        id: rule.id.parse().ok()?,
        target: Target {
            role: role(rule.role)?,
            server,
            schema: Pattern::parse(&rule.schema_name).ok()?,
            table: Pattern::parse(&rule.table_name).ok()?,
            columns: columns(&rule.columns).ok()?,
        },
        effect: match pb::Effect::try_from(rule.effect).ok()? {
            pb::Effect::Allow => Effect::Allow,
            pb::Effect::Deny => Effect::Deny,
            pb::Effect::Unspecified => return None,
        },
    })
}

fn role(number: i32) -> Option<Role> {
    Some(match common::Role::try_from(number).ok()? {
        common::Role::Unspecified => return None,
        common::Role::Viewer => Role::Viewer,
        common::Role::Analyst => Role::Analyst,
        common::Role::Operator => Role::Operator,
        common::Role::Admin => Role::Admin,
        common::Role::Owner => Role::Owner,
    })
}

#[cfg(test)]
mod tests {
    use proto::{
        agent::v1::{Descent, TablesResponse, descent::Kind},
        change::v1::TableFilter,
        common::v1 as common,
        tenant::v1 as pb,
    };
    use types::{
        Role, RuleId, ServerId,
        access::{Access, Lineage},
    };

    use super::{access_rules, lineage};

    fn denial() -> pb::AccessRule {
        pb::AccessRule {
            id: RuleId::fresh().to_string(),
            role: common::Role::Analyst.into(),
            server_id: String::new(),
            schema_name: "shop".to_owned(),
            table_name: "*".to_owned(),
            columns: vec!["Card".to_owned()],
            effect: pb::Effect::Deny.into(),
            create_time: None,
        }
    }

    #[test]
    fn rules_are_read_as_they_are_meant() {
        let server = ServerId::fresh();
        let of_server = pb::AccessRule {
            server_id: server.to_string(),
            schema_name: "*".to_owned(),
            columns: Vec::new(),
            ..denial()
        };
        let rules = access_rules(&[denial(), of_server]).unwrap();
        let access = Access::of(Role::Analyst, rules.clone());
        assert!(access.table(server, "crm", "people").is_hidden());
        let view = access.table(ServerId::fresh(), "shop", "orders");
        assert!(view.shows("id") && !view.shows("CARD"));
        assert!(Access::of(Role::Viewer, rules).hides_nothing(server));
    }

    #[test]
    fn where_tables_came_from_is_known_only_if_all_of_it_is() {
        let table = |table: &str| {
            Some(TableFilter {
                schema: "shop".to_owned(),
                table: table.to_owned(),
            })
        };
        let renamed = Descent {
            from: table("a"),
            to: table("b"),
            kind: Kind::Rows.into(),
            ..Descent::default()
        };
        let known = |descents: Vec<Descent>, descents_left_out: bool| {
            lineage(&TablesResponse {
                descents,
                descents_left_out,
                ..TablesResponse::default()
            })
        };
        let mut expected = Lineage::default();
        expected.renamed(("shop", "a"), ("shop", "b"));
        assert_eq!(known(vec![renamed.clone()], false), expected);
        assert!(known(vec![renamed.clone()], true).is_unknown());
        let (mut unnamed, mut odd) = (renamed.clone(), renamed.clone());
        (unnamed.from, odd.kind) = (None, 99);
        for wrong in [unnamed, odd] {
            assert!(known(vec![renamed.clone(), wrong], false).is_unknown());
        }
    }

    #[test]
    fn one_that_cannot_be_read_is_not_left_out() {
        let wrong = |change: fn(&mut pb::AccessRule)| {
            let mut rule = denial();
            change(&mut rule);
            access_rules(&[denial(), rule])
        };
        assert!(wrong(|_| {}).is_some());
        for change in [
            (|rule| rule.id = "x".to_owned()) as fn(&mut pb::AccessRule),
            |rule| rule.role = 0,
            |rule| rule.role = 99,
            |rule| rule.server_id = "srv_1".to_owned(),
            |rule| rule.schema_name = String::new(),
            |rule| rule.table_name = "a*".to_owned(),
            |rule| rule.columns = vec!["*".to_owned()],
            |rule| rule.effect = 0,
            |rule| rule.effect = 3,
        ] {
            assert_eq!(wrong(change), None);
        }
    }
}
