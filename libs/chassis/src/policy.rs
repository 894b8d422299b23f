//! Who may call what, as the protos say it: one [`Rule`] per method, and no service without all of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, ExtensionDescriptor, MethodDescriptor,
    prost_types::{MethodOptions, method_options::IdempotencyLevel},
};
use proto::policy::v1 as pb;
use types::Role;

use crate::{Error, deadline::longest};

/// The deadline of a method that names none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Every method's rule, by its path. What is not in it may not be called.
#[derive(Debug)]
pub struct Table {
    pool: DescriptorPool,
    rules: BTreeMap<String, Arc<Rule>>,
}

/// What one method takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `/package.Service/Method`
    pub path: String,
    /// Who may call at all.
    pub caller: CallerKind,
    /// The lowest role that has the permission; none where the method takes no tenant.
    pub lowest_role: Option<Role>,
    /// The permission as keys and documentation name it; empty unless a user calls.
    pub permission: String,
    /// Whether the role must be held in the whole tenant: one in single agent pools is not enough.
    pub tenant_wide: bool,
    /// The second factor.
    pub step_up: StepUp,
    /// What the audit log keeps.
    pub audit: Audit,
    /// Units taken from rate limits, at least one.
    pub cost: u32,
    /// Counted per client address, and refused when counting is impossible.
    pub strict_rate: bool,
    /// The plan feature it takes.
    pub feature: Option<String>,
    /// Whether API keys are refused.
    pub session_only: bool,
    /// The deadline when the caller sets none.
    pub timeout: Duration,
    /// What calling twice does.
    pub idempotency: Idempotency,
    /// Why a changing method takes no second factor; empty where it does.
    pub no_step_up_because: String,
    /// Whether the request is a stream of messages.
    pub client_streaming: bool,
    /// Whether the answer is a stream of messages.
    pub server_streaming: bool,
}

/// Who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallerKind {
    /// Anyone, through the gateway.
    Public,
    /// A person or an API key, through the gateway.
    User,
    /// An enrolled agent.
    Agent,
    /// These services.
    Peers(Vec<String>),
}

/// The second factor of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepUp {
    /// None.
    None,
    /// Consumed before the call; the service sees a grant.
    Totp,
    /// Consumed by the method itself.
    Own,
}

/// What the audit log keeps of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// Nothing.
    None,
    /// A reading worth an entry.
    Read,
    /// A change.
    Change,
    /// A security event.
    Security,
}

/// What calling twice does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// It changes nothing.
    NoSideEffects,
    /// The second time changes nothing.
    Idempotent,
    /// Perhaps something else: never repeated by us.
    Unknown,
}

impl Rule {
    /// `package.Service`
    pub fn service(&self) -> &str {
        self.path.split('/').nth(1).unwrap_or_default()
    }

    /// The method's own name.
    pub fn method(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

impl Table {
    /// Reads the rules of every service in the descriptor set. Refuses a method whose rule is not complete.
    pub fn load(descriptor_set: &[u8]) -> Result<Self, Error> {
        let pool =
            DescriptorPool::decode(descriptor_set).map_err(|error| Error::Descriptor(error.to_string()))?;
        let reader = Reader::new(&pool)?;
        let mut rules = BTreeMap::new();
        for method in pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
        {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            let rule = reader.rule(&method, &path).map_err(|problem| Error::Rule {
                path: path.clone(),
                problem,
            })?;
            rules.insert(path, Arc::new(rule));
        }
        Ok(Self { pool, rules })
    }

    /// The rule of `/package.Service/Method`.
    pub fn rule(&self, path: &str) -> Option<&Rule> {
        self.rules.get(path).map(Arc::as_ref)
    }

    pub(crate) fn shared_rule(&self, path: &str) -> Option<Arc<Rule>> {
        self.rules.get(path).cloned()
    }

    /// All rules, by path.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values().map(Arc::as_ref)
    }

    /// The descriptors that the rules stand on.
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }
}

/// The extensions, found once.
struct Reader {
    rule: ExtensionDescriptor,
    lowest_role: ExtensionDescriptor,
    scope: ExtensionDescriptor,
    permission: EnumDescriptor,
}

impl Reader {
    fn new(pool: &DescriptorPool) -> Result<Self, Error> {
        let missing = |name: &str| Error::Descriptor(format!("{name} is not in it"));
        let extension = |name: &str| pool.get_extension_by_name(name).ok_or_else(|| missing(name));
        let permission = "trailmesh.policy.v1.Permission";
        Ok(Self {
            rule: extension("trailmesh.policy.v1.rule")?,
            lowest_role: extension("trailmesh.policy.v1.lowest_role")?,
            scope: extension("trailmesh.policy.v1.scope")?,
            permission: pool
                .get_enum_by_name(permission)
                .ok_or_else(|| missing(permission))?,
        })
    }

    fn rule(&self, method: &MethodDescriptor, path: &str) -> Result<Rule, String> {
        let options = method.options();
        if !options.has_extension(&self.rule) {
            return Err("it has none".into());
        }
        let value = options.get_extension(&self.rule);
        let message = value.as_message().ok_or("it is no message")?;
        if message.unknown_fields().next().is_some() {
            return Err("it says more than this version understands".into());
        }
        let rule = message
            .transcode_to::<pb::Rule>()
            .map_err(|error| error.to_string())?;
        let (permission, lowest_role) = self.permission(&rule)?;
        let read = Rule {
            path: path.to_owned(),
            caller: caller(&rule)?,
            lowest_role,
            permission,
            tenant_wide: rule.tenant_wide,
            step_up: match pb::StepUp::try_from(rule.step_up).map_err(|_| "step_up is not known")? {
                pb::StepUp::Unspecified => StepUp::None,
                pb::StepUp::Totp => StepUp::Totp,
                pb::StepUp::Own => StepUp::Own,
            },
            audit: match rule.audit() {
                pb::Audit::Unspecified => return Err("audit is missing".into()),
                pb::Audit::None => Audit::None,
                pb::Audit::Read => Audit::Read,
                pb::Audit::Change => Audit::Change,
                pb::Audit::Security => Audit::Security,
            },
            cost: rule.cost.max(1),
            strict_rate: rule.strict_rate,
            feature: Some(rule.feature).filter(|feature| !feature.is_empty()),
            session_only: rule.session_only,
            timeout: match rule.timeout_ms {
                0 => DEFAULT_TIMEOUT,
                given => Duration::from_millis(given.into()),
            },
            idempotency: idempotency(&options)?,
            no_step_up_because: rule.no_step_up_because,
            client_streaming: method.is_client_streaming(),
            server_streaming: method.is_server_streaming(),
        };
        complete(&read)?;
        Ok(read)
    }

    fn permission(&self, rule: &pb::Rule) -> Result<(String, Option<Role>), String> {
        let user = rule.caller() == pb::Caller::User;
        if rule.permission() == pb::Permission::Unspecified {
            return if user {
                Err("permission is missing".into())
            } else {
                Ok((String::new(), None))
            };
        }
        if !user {
            return Err("a permission is for users only".into());
        }
        let value = self
            .permission
            .get_value(rule.permission)
            .ok_or("permission is not known")?;
        let options = value.options();
        let scope = options.get_extension(&self.scope);
        let scope = scope.as_str().filter(|scope| !scope.is_empty());
        let scope = scope.ok_or("its permission has no scope")?.to_owned();
        if !options.has_extension(&self.lowest_role) {
            return Ok((scope, None));
        }
        let role = options.get_extension(&self.lowest_role).as_enum_number();
        let role = role.and_then(|number| proto::common::v1::Role::try_from(number).ok());
        let role = role.and_then(|role| {
            role.as_str_name()
                .strip_prefix("ROLE_")?
                .to_lowercase()
                .parse()
                .ok()
        });
        role.map(|role| (scope, Some(role)))
            .ok_or_else(|| "its permission has no role".into())
    }
}

fn caller(rule: &pb::Rule) -> Result<CallerKind, String> {
    if rule.caller() != pb::Caller::Peers && !rule.peers.is_empty() {
        return Err("peers are named, but the caller is not CALLER_PEERS".into());
    }
    match rule.caller() {
        pb::Caller::Unspecified => Err("caller is missing".into()),
        pb::Caller::Public => Ok(CallerKind::Public),
        pb::Caller::User => Ok(CallerKind::User),
        pb::Caller::Agent => Ok(CallerKind::Agent),
        pb::Caller::Peers if rule.peers.is_empty() => Err("no peer is named".into()),
        pb::Caller::Peers => Ok(CallerKind::Peers(rule.peers.clone())),
    }
}

fn idempotency(options: &DynamicMessage) -> Result<Idempotency, String> {
    let options =
        MethodOptions::decode(options.encode_to_vec().as_slice()).map_err(|error| error.to_string())?;
    Ok(match options.idempotency_level() {
        IdempotencyLevel::NoSideEffects => Idempotency::NoSideEffects,
        IdempotencyLevel::Idempotent => Idempotency::Idempotent,
        IdempotencyLevel::IdempotencyUnknown => Idempotency::Unknown,
    })
}

/// What each field allows alone but not together.
fn complete(rule: &Rule) -> Result<(), String> {
    let user = rule.caller == CallerKind::User;
    let changes = rule.idempotency != Idempotency::NoSideEffects;
    let bare = rule.step_up == StepUp::None && rule.no_step_up_because.is_empty();
    if changes && bare {
        return Err("it changes something and neither takes a second factor nor says why not".into());
    }
    if rule.step_up != StepUp::None && !rule.no_step_up_because.is_empty() {
        return Err("it takes a second factor and says why it takes none".into());
    }
    if rule.step_up == StepUp::Totp && (!user || rule.client_streaming) {
        return Err("STEP_UP_TOTP is for users and single requests".into());
    }
    if rule.session_only && !user {
        return Err("session_only is for users".into());
    }
    if rule.tenant_wide && rule.lowest_role.is_none() {
        return Err("tenant_wide is for permissions in a tenant".into());
    }
    let longest = longest(Some(rule));
    if rule.timeout > longest {
        return Err(format!("timeout_ms is over {}", longest.as_millis()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{CallerKind, Idempotency, StepUp, Table};
    use types::Role;

    #[test]
    fn the_rules_of_the_protos_are_read() {
        let table = Table::load(proto::DESCRIPTOR_SET).unwrap();
        let rule = table
            .rule("/trailmesh.tenant.v1.ServerService/RegisterServer")
            .unwrap();
        assert_eq!(rule.caller, CallerKind::User);
        assert_eq!(rule.lowest_role, Some(Role::Operator));
        assert_eq!(rule.permission, "servers:manage");
        assert_eq!(rule.step_up, StepUp::Totp);
        assert_eq!(rule.idempotency, Idempotency::Unknown);
        assert_eq!(rule.timeout, Duration::from_secs(15));
        assert_eq!(
            (rule.service(), rule.method()),
            ("trailmesh.tenant.v1.ServerService", "RegisterServer")
        );
        let rule = table.rule("/trailmesh.auth.v1.GuardService/GetKeySet").unwrap();
        assert!(matches!(&rule.caller, CallerKind::Peers(peers) if peers.contains(&"tenant".to_owned())));
        assert_eq!(rule.idempotency, Idempotency::NoSideEffects);
        assert_eq!(rule.timeout, Duration::from_secs(2));
        let rule = table
            .rule("/trailmesh.tenant.v1.TenantService/ListTenants")
            .unwrap();
        assert_eq!((rule.permission.as_str(), rule.lowest_role), ("account", None));
        assert!(rule.session_only);
        assert!(table.rule("/trailmesh.auth.v1.GuardService/Nothing").is_none());
        let methods = table
            .pool()
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>());
        assert_eq!(methods.count(), table.rules().count());
    }

    #[test]
    fn a_set_without_the_extension_is_refused() {
        assert!(Table::load(b"").is_err());
        assert!(Table::load(b"nonsense").is_err());
    }
}
