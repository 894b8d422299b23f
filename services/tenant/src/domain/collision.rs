//! Where a new access rule meets those that are there. A collision is no mistake: the rule is stored, and its maker told.

use std::fmt;

use types::{
    RuleId,
    access::{Effect, Rule, Target},
};

/// How many collisions one answer tells of.
pub(crate) const MOST_TOLD: usize = 20;

/// A collision of a new rule with one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collision {
    /// They are about the same and do the same.
    Same(RuleId),
    /// The other does the same and is about more.
    Shadowed(RuleId),
    /// The new one does the same and is about more.
    Shadows(RuleId),
    /// The new one allows what the other denies, wholly.
    Hidden(RuleId),
    /// The new one allows some of what the other denies.
    PartlyHidden(RuleId),
    /// The new one denies what the other allows, wholly.
    Hides(RuleId),
    /// The new one denies some of what the other allows.
    PartlyHides(RuleId),
    /// The new one denies columns of a table that the other denies as a whole.
    HiddenColumns(RuleId),
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(id) => write!(f, "{id} says the same already"),
            Self::Shadowed(id) => write!(f, "{id} covers it already"),
            Self::Shadows(id) => write!(f, "it covers all of {id}"),
            Self::Hidden(id) => write!(
                f,
                "{id} denies all that it allows, and a denial wins: it has no effect"
            ),
            Self::PartlyHidden(id) => write!(f, "{id} denies some of what it allows, and a denial wins"),
            Self::Hides(id) => write!(
                f,
                "it denies all that {id} allows, and a denial wins: {id} has no effect any more"
            ),
            Self::PartlyHides(id) => write!(f, "it denies some of what {id} allows, and a denial wins"),
            Self::HiddenColumns(id) => write!(
                f,
                "{id} hides the whole table, these columns too: it has no effect"
            ),
        }
    }
}

/// The collisions of `new` with `others`, in the order of these.
pub(crate) fn collisions<'a>(new: &'a Rule, others: impl IntoIterator<Item = &'a Rule>) -> Vec<Collision> {
    others
        .into_iter()
        .filter_map(|other| collision(new, other))
        .collect()
}

fn collision(new: &Rule, other: &Rule) -> Option<Collision> {
    let (mine, theirs) = (&new.target, &other.target);
    if new.id == other.id || !meet(mine, theirs) {
        return None;
    }
    let (under, over) = (covers(theirs, mine), covers(mine, theirs));
    match (new.effect, other.effect) {
        (Effect::Allow, Effect::Deny) if under => Some(Collision::Hidden(other.id)),
        (Effect::Allow, Effect::Deny) => Some(Collision::PartlyHidden(other.id)),
        (Effect::Deny, Effect::Allow) if over => Some(Collision::Hides(other.id)),
        (Effect::Deny, Effect::Allow) => Some(Collision::PartlyHides(other.id)),
        _ if under && over => Some(Collision::Same(other.id)),
        (Effect::Deny, Effect::Deny) if under && theirs.columns.is_empty() && !mine.columns.is_empty() => {
            Some(Collision::HiddenColumns(other.id))
        }
        _ if under => Some(Collision::Shadowed(other.id)),
        _ if over => Some(Collision::Shadows(other.id)),
        _ => None,
    }
}

/// Whether there is anything that both are about.
fn meet(one: &Target, other: &Target) -> bool {
    let columns = one.columns.is_empty()
        || other.columns.is_empty()
        || one
            .columns
            .keys()
            .any(|column| other.columns.contains_key(column));
    one.role == other.role
        && (one.server.is_none() || other.server.is_none() || one.server == other.server)
        && (one.schema.covers(&other.schema) || other.schema.covers(&one.schema))
        && (one.table.covers(&other.table) || other.table.covers(&one.table))
        && columns
}

/// Whether `wide` is about all that `narrow` is about.
fn covers(wide: &Target, narrow: &Target) -> bool {
    let columns = wide.columns.is_empty()
        || !narrow.columns.is_empty()
            && narrow
                .columns
                .keys()
                .all(|column| wide.columns.contains_key(column));
    wide.role == narrow.role
        && (wide.server.is_none() || wide.server == narrow.server)
        && wide.schema.covers(&narrow.schema)
        && wide.table.covers(&narrow.table)
        && columns
}

#[cfg(test)]
mod tests {
    use types::{
        Role, RuleId, ServerId,
        access::{
            Effect::{self, *},
            Pattern, Rule, Target, columns,
        },
    };

    use super::{Collision, collisions};

    fn rule(effect: Effect, server: Option<ServerId>, place: &str, named: &[&str]) -> Rule {
        let (schema, table) = place.split_once('.').unwrap();
        let named: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
        Rule {
            id: RuleId::fresh(),
            target: Target {
                role: Role::Analyst,
                server,
                schema: Pattern::parse(schema).unwrap(),
                table: Pattern::parse(table).unwrap(),
                columns: columns(&named).unwrap(),
            },
            effect,
        }
    }

    #[test]
    fn the_same_target_allowed_and_denied_is_told() {
        let (allow, deny) = (rule(Allow, None, "a.b", &[]), rule(Deny, None, "a.b", &[]));
        assert_eq!(collisions(&allow, [&deny]), [Collision::Hidden(deny.id)]);
        assert_eq!(collisions(&deny, [&allow]), [Collision::Hides(allow.id)]);
        let columns = rule(Deny, None, "a.*", &["x", "y"]);
        assert_eq!(
            collisions(&allow, [&columns]),
            [Collision::PartlyHidden(columns.id)]
        );
        assert_eq!(collisions(&columns, [&allow]), [Collision::PartlyHides(allow.id)]);
    }

    #[test]
    fn a_shadowed_rule_is_told() {
        let (wide, narrow) = (rule(Deny, None, "*.*", &[]), rule(Deny, None, "a.b", &[]));
        assert_eq!(collisions(&narrow, [&wide]), [Collision::Shadowed(wide.id)]);
        assert_eq!(collisions(&wide, [&narrow]), [Collision::Shadows(narrow.id)]);
        let again = rule(Deny, None, "a.b", &[]);
        assert_eq!(collisions(&again, [&narrow]), [Collision::Same(narrow.id)]);
        let (two, one) = (
            rule(Allow, None, "a.b", &["x", "Y"]),
            rule(Allow, None, "a.b", &["y"]),
        );
        assert_eq!(collisions(&one, [&two]), [Collision::Shadowed(two.id)]);
    }

    #[test]
    fn columns_of_a_denied_table_are_told() {
        let (table, column) = (rule(Deny, None, "a.b", &[]), rule(Deny, None, "a.b", &["x"]));
        assert_eq!(
            collisions(&column, [&table]),
            [Collision::HiddenColumns(table.id)]
        );
        let allowed = rule(Allow, None, "a.b", &["x"]);
        assert_eq!(collisions(&allowed, [&table]), [Collision::Hidden(table.id)]);
    }

    #[test]
    fn rules_that_do_not_meet_do_not_collide() {
        let new = rule(Allow, Some(ServerId::fresh()), "a.b", &["x"]);
        let mut viewer = rule(Deny, None, "a.b", &[]);
        viewer.target.role = Role::Viewer;
        let others = [
            viewer,
            rule(Deny, Some(ServerId::fresh()), "a.b", &[]),
            rule(Deny, None, "a.c", &[]),
            rule(Deny, None, "c.*", &[]),
            rule(Deny, None, "a.b", &["y"]),
            rule(Allow, None, "a.b", &["y"]),
        ];
        assert_eq!(collisions(&new, &others), []);
        assert_eq!(collisions(&new, [&new]), []);
    }

    #[test]
    fn every_collision_names_the_other_rule() {
        let other = rule(Allow, None, "a.b", &[]).id;
        for collision in [
            Collision::Same(other),
            Collision::Shadowed(other),
            Collision::Shadows(other),
            Collision::Hidden(other),
            Collision::PartlyHidden(other),
            Collision::Hides(other),
            Collision::PartlyHides(other),
            Collision::HiddenColumns(other),
        ] {
            assert!(collision.to_string().contains(&other.to_string()));
        }
    }
}
