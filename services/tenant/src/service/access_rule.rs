//! AccessRuleService.

use proto::tenant::v1 as pb;
use tonic::{Request, Response, Status};
use types::{
    Micros, RuleId, Scope, ServerId,
    access::{self, Access, Columns, Pattern, Rule, Target, View},
};

use super::{Core, below, server::covered, wire};
use crate::{
    domain::{
        At as _, Problem,
        collision::{MOST_TOLD, collisions},
        limit,
        page::{Page, Query},
    },
    error::{Error, Noun},
    store,
};

/// AccessRuleService.
#[derive(Clone, Debug)]
pub(crate) struct AccessRules(pub(crate) Core);

impl AccessRules {
    async fn create(
        &self,
        scope: &Scope,
        wanted: pb::CreateAccessRuleRequest,
    ) -> Result<(Rule, Micros, Vec<String>), Error> {
        let new = wanted
            .rule
            .ok_or_else(|| Problem::from("the rule is needed").at("rule"))?;
        let role = access::role(wire::role(new.role, "rule.role")?).at("rule.role")?;
        let schema = Pattern::parse(&new.schema_name).at("rule.schema_name")?;
        let table = Pattern::parse(&new.table_name).at("rule.table_name")?;
        let columns = access::columns(&new.columns).at("rule.columns")?;
        let effect = wire::effect(new.effect).at("rule.effect")?;
        let server: Option<ServerId> = match new.server_id.as_str() {
            "" => None,
            text => Some(wire::id(text, Noun::Server)?),
        };

        let (mut tx, scope) = self.0.store.change_all(scope).await?;
        tx.enter_tenant().await?;
        if let Some(server) = server {
            covered(&mut tx, &scope, server).await?;
        }
        below(
            store::access_rule::count(&mut tx).await?,
            Noun::Rule,
            limit::RULES,
        )?;
        let rule = Rule {
            id: RuleId::fresh(),
            target: Target {
                role,
                server,
                schema,
                table,
                columns,
            },
            effect,
        };
        let others = store::access_rule::of_role(&mut tx, role).await?;
        let others: Vec<_> = others.into_iter().map(|(rule, _)| rule).collect();
        let created = store::access_rule::insert(&mut tx, &rule).await?;
        tx.commit().await?;
        Ok((rule.clone(), created, warnings(&rule, &others)))
    }

    async fn list(
        &self,
        scope: &Scope,
        wanted: &pb::ListAccessRulesRequest,
    ) -> Result<pb::ListAccessRulesResponse, Error> {
        let query = Query::new("ListAccessRules", scope.tenant());
        let page = Page::parse::<1>(&query, wanted.page_size, &wanted.page_token)?;
        let mut tx = self.0.store.registry(scope).await?;
        let found = store::access_rule::list(&mut tx, scope.pools(), &page).await?;
        let (found, next_page_token) = page.cut(&query, found, |(rule, _)| vec![rule.id.to_string()]);
        Ok(pb::ListAccessRulesResponse {
            rules: found
                .into_iter()
                .map(|(rule, created)| wire::rule(rule, created))
                .collect(),
            next_page_token,
        })
    }

    async fn delete(&self, scope: &Scope, id: &str) -> Result<(), Error> {
        let id = wire::id(id, Noun::Rule)?;
        let (mut tx, _) = self.0.store.change_all(scope).await?;
        tx.enter_tenant().await?;
        store::access_rule::delete(&mut tx, id).await?;
        Ok(tx.commit().await?)
    }

    async fn explain(
        &self,
        scope: &Scope,
        wanted: &pb::ExplainAccessRequest,
    ) -> Result<pb::ExplainAccessResponse, Error> {
        let role = wire::role(wanted.role, "role")?;
        let schema = access::identifier(&wanted.schema_name).at("schema_name")?;
        let table = access::identifier(&wanted.table_name).at("table_name")?;
        let server = wire::id(&wanted.server_id, Noun::Server)?;
        let mut tx = self.0.store.registry(scope).await?;
        covered(&mut tx, scope, server).await?;
        let rules = store::access_rule::of_role(&mut tx, role).await?;
        let rules = rules.into_iter().map(|(rule, _)| rule);
        let (view, decided) = Access::of(role, rules).explain(server, &schema, &table);
        let (visible, denied, allowed) = match view {
            View::Hidden => (false, Columns::new(), None),
            View::Visible { denied, allowed } => (true, denied, allowed),
        };
        Ok(pb::ExplainAccessResponse {
            visible,
            denied_columns: denied.into_values().collect(),
            allowed_columns: allowed.unwrap_or_default().into_values().collect(),
            rule_ids: decided.iter().map(ToString::to_string).collect(),
        })
    }
}

fn warnings(rule: &Rule, others: &[Rule]) -> Vec<String> {
    let found = collisions(rule, others);
    let mut told: Vec<String> = found.iter().take(MOST_TOLD).map(ToString::to_string).collect();
    if found.len() > MOST_TOLD {
        told.push(format!("and it collides with {} more", found.len() - MOST_TOLD));
    }
    told
}

#[tonic::async_trait]
impl pb::access_rule_service_server::AccessRuleService for AccessRules {
    async fn create_access_rule(
        &self,
        request: Request<pb::CreateAccessRuleRequest>,
    ) -> Result<Response<pb::CreateAccessRuleResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let (rule, created, warnings) = self.create(&scope, request.into_inner()).await?;
        let rule = Some(wire::rule(rule, created));
        Ok(Response::new(pb::CreateAccessRuleResponse { rule, warnings }))
    }

    async fn list_access_rules(
        &self,
        request: Request<pb::ListAccessRulesRequest>,
    ) -> Result<Response<pb::ListAccessRulesResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.list(&scope, request.get_ref()).await?))
    }

    async fn delete_access_rule(
        &self,
        request: Request<pb::DeleteAccessRuleRequest>,
    ) -> Result<Response<pb::DeleteAccessRuleResponse>, Status> {
        let scope = chassis::scope(&request)?;
        self.delete(&scope, &request.get_ref().rule_id).await?;
        Ok(Response::new(pb::DeleteAccessRuleResponse {}))
    }

    async fn explain_access(
        &self,
        request: Request<pb::ExplainAccessRequest>,
    ) -> Result<Response<pb::ExplainAccessResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.explain(&scope, request.get_ref()).await?))
    }
}
