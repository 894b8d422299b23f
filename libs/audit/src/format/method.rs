//! What a method does, as its name says it: rules for names, so that a new method is classified without being listed.

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Something is there that was not.
    Create,
    /// Something is looked at.
    Read,
    /// Something is otherwise than before.
    Update,
    /// Something is not there any more.
    Delete,
    /// A machine has become part of the tenant.
    Enrol,
    /// None of these.
    Other,
}

/// To what it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    /// Somebody begins, ends or proves a session.
    Session,
    /// Somebody's account: password, address, second factor.
    Account,
    /// Everything else.
    Entity,
}

/// A method's parts. Everything in it is letters, digits, `_`, `.` and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// For example `trailmesh.tenant.v1.ServerService`.
    pub(super) service: String,
    /// For example `RegisterServer`.
    pub(super) name: String,
    /// For example `Server`: the name without its verb.
    pub(super) noun: String,
    /// What is done.
    pub(super) deed: Deed,
    /// To what.
    pub(super) area: Area,
}

impl Method {
    /// Of `/package.Service/Name`.
    pub(super) fn of(path: &str) -> Self {
        let (service, name) = path.trim_start_matches('/').split_once('/').unwrap_or(("", path));
        let (service, name) = (super::text::word(service, 96), super::text::word(name, 48));
        let name = if name.is_empty() {
            "Unknown".to_owned()
        } else {
            name
        };
        let verb_end = name
            .char_indices()
            .skip(1)
            .find(|(_, char)| char.is_ascii_uppercase())
            .map_or(name.len(), |(at, _)| at);
        let (verb, noun) = name.split_at(verb_end);
        Self {
            deed: deed(verb),
            area: area(&service),
            noun: if noun.is_empty() {
                name.clone()
            } else {
                noun.to_owned()
            },
            service,
            name,
        }
    }

    /// The name in words: `Register server`.
    pub(super) fn words(&self) -> String {
        let mut words = String::new();
        for (at, char) in self.name.char_indices() {
            if at > 0 && char.is_ascii_uppercase() {
                words.push(' ');
                words.push(char.to_ascii_lowercase());
            } else {
                words.push(char);
            }
        }
        words
    }

    /// The name of the field that would hold the id of what it is about: `server_id`.
    pub(super) fn id_field(&self) -> String {
        let mut field = String::new();
        for (at, char) in self.noun.char_indices() {
            if at > 0 && char.is_ascii_uppercase() {
                field.push('_');
            }
            field.push(char.to_ascii_lowercase());
        }
        field + "_id"
    }
}

fn deed(verb: &str) -> Deed {
    match verb {
        "Create" | "Register" | "Invite" | "Accept" | "Add" | "Sign" | "Import" | "Join" => Deed::Create,
        "Get" | "List" | "Stream" | "Export" | "Open" | "Read" | "Explain" | "Verify" | "Search" => {
            Deed::Read
        }
        "Update" | "Set" | "Bind" | "Unbind" | "Rotate" | "Renew" | "Change" | "Reset" | "Move" => {
            Deed::Update
        }
        "Delete" | "Remove" | "Revoke" | "Destroy" | "Leave" => Deed::Delete,
        "Enrol" => Deed::Enrol,
        _ => Deed::Other,
    }
}

fn area(service: &str) -> Area {
    match service.rsplit('.').next() {
        Some("SessionService" | "GuardService") => Area::Session,
        Some("AccountService" | "MfaService") => Area::Account,
        _ => Area::Entity,
    }
}

#[cfg(test)]
mod tests {
    use super::{Area, Deed, Method};

    #[test]
    fn a_method_is_what_its_name_says() {
        for (path, name, noun, deed, area) in [
            (
                "/trailmesh.tenant.v1.ServerService/RegisterServer",
                "RegisterServer",
                "Server",
                Deed::Create,
                Area::Entity,
            ),
            (
                "/trailmesh.tenant.v1.AgentPoolService/DeleteAgentPool",
                "DeleteAgentPool",
                "AgentPool",
                Deed::Delete,
                Area::Entity,
            ),
            (
                "/trailmesh.auth.v1.SessionService/LogIn",
                "LogIn",
                "In",
                Deed::Other,
                Area::Session,
            ),
            (
                "/trailmesh.auth.v1.MfaService/ActivateTotp",
                "ActivateTotp",
                "Totp",
                Deed::Other,
                Area::Account,
            ),
            (
                "/trailmesh.vault.v1.AgentIdentityService/OpenCredentials",
                "OpenCredentials",
                "Credentials",
                Deed::Read,
                Area::Entity,
            ),
            ("", "Unknown", "Unknown", Deed::Other, Area::Entity),
            ("a|b=c", "a_b_c", "a_b_c", Deed::Other, Area::Entity),
        ] {
            let method = Method::of(path);
            assert_eq!(
                (method.name.as_str(), method.noun.as_str()),
                (name, noun),
                "{path}"
            );
            assert_eq!((method.deed, method.area), (deed, area), "{path}");
        }
        let method = Method::of("/t.S/DeleteAgentPool");
        assert_eq!(
            (method.words(), method.id_field()),
            ("Delete agent pool".to_owned(), "agent_pool_id".to_owned())
        );
    }
}
