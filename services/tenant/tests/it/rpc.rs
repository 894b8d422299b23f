//! Every RPC of the service by its request.

use prost::Message;
use proto::tenant::v1::*;

/// A request, where it goes and what it is answered with.
pub(crate) trait Rpc: Message + Clone + Default + 'static {
    /// `/package.Service/Method`
    const PATH: &'static str;
    type Answer: Message + Default + std::fmt::Debug + 'static;
}

macro_rules! rpcs {
    ($($path:literal: $request:ident -> $answer:ident;)*) => {
        $(impl Rpc for $request {
            const PATH: &'static str = concat!("/trailmesh.tenant.v1.", $path);
            type Answer = $answer;
        })*

        const PATHS: &[&str] = &[$(concat!("/trailmesh.tenant.v1.", $path),)*];
    };
}

rpcs! {
    "TenantService/CreateTenant": CreateTenantRequest -> CreateTenantResponse;
    "TenantService/GetTenant": GetTenantRequest -> GetTenantResponse;
    "TenantService/UpdateTenant": UpdateTenantRequest -> UpdateTenantResponse;
    "TenantService/ListTenants": ListTenantsRequest -> ListTenantsResponse;
    "TenantService/DeleteTenant": DeleteTenantRequest -> DeleteTenantResponse;
    "TenantService/GetDeletion": GetDeletionRequest -> GetDeletionResponse;
    "BillingService/GetPlan": GetPlanRequest -> GetPlanResponse;
    "BillingService/CreateCheckoutLink": CreateCheckoutLinkRequest -> CreateCheckoutLinkResponse;
    "BillingService/CreatePortalLink": CreatePortalLinkRequest -> CreatePortalLinkResponse;
    "BillingService/ReceiveStripeEvent": ReceiveStripeEventRequest -> ReceiveStripeEventResponse;
    "AuditSinkService/CreateAuditSink": CreateAuditSinkRequest -> CreateAuditSinkResponse;
    "AuditSinkService/ListAuditSinks": ListAuditSinksRequest -> ListAuditSinksResponse;
    "AuditSinkService/DeleteAuditSink": DeleteAuditSinkRequest -> DeleteAuditSinkResponse;
    "MemberService/ListMembers": ListMembersRequest -> ListMembersResponse;
    "MemberService/GetMember": GetMemberRequest -> GetMemberResponse;
    "MemberService/SetMemberRole": SetMemberRoleRequest -> SetMemberRoleResponse;
    "MemberService/RemoveMember": RemoveMemberRequest -> RemoveMemberResponse;
    "MemberService/BindRole": BindRoleRequest -> BindRoleResponse;
    "MemberService/UnbindRole": UnbindRoleRequest -> UnbindRoleResponse;
    "MemberService/InviteMember": InviteMemberRequest -> InviteMemberResponse;
    "MemberService/ListInvitations": ListInvitationsRequest -> ListInvitationsResponse;
    "MemberService/RevokeInvitation": RevokeInvitationRequest -> RevokeInvitationResponse;
    "MemberService/AcceptInvitation": AcceptInvitationRequest -> AcceptInvitationResponse;
    "AgentPoolService/CreateAgentPool": CreateAgentPoolRequest -> CreateAgentPoolResponse;
    "AgentPoolService/ListAgentPools": ListAgentPoolsRequest -> ListAgentPoolsResponse;
    "AgentPoolService/DeleteAgentPool": DeleteAgentPoolRequest -> DeleteAgentPoolResponse;
    "AgentService/CreateAgent": CreateAgentRequest -> CreateAgentResponse;
    "AgentService/GetAgent": GetAgentRequest -> GetAgentResponse;
    "AgentService/ListAgents": ListAgentsRequest -> ListAgentsResponse;
    "AgentService/RenewEnrolment": RenewEnrolmentRequest -> RenewEnrolmentResponse;
    "AgentService/RevokeAgent": RevokeAgentRequest -> RevokeAgentResponse;
    "ServerService/RegisterServer": RegisterServerRequest -> RegisterServerResponse;
    "ServerService/GetServer": GetServerRequest -> GetServerResponse;
    "ServerService/ListServers": ListServersRequest -> ListServersResponse;
    "ServerService/UpdateServer": UpdateServerRequest -> UpdateServerResponse;
    "ServerService/DeleteServer": DeleteServerRequest -> DeleteServerResponse;
    "ServerService/SetServerCredential": SetServerCredentialRequest -> SetServerCredentialResponse;
    "ServerService/ListServerCredentials": ListServerCredentialsRequest -> ListServerCredentialsResponse;
    "ServerService/DeleteServerCredential": DeleteServerCredentialRequest -> DeleteServerCredentialResponse;
    "AuditService/RecordIntent": RecordIntentRequest -> RecordIntentResponse;
    "AuditService/RecordResult": RecordResultRequest -> RecordResultResponse;
    "AuditService/RecordRefusals": RecordRefusalsRequest -> RecordRefusalsResponse;
    "AuditService/ListAuditEntries": ListAuditEntriesRequest -> ListAuditEntriesResponse;
    "AuditService/GetAuditHead": GetAuditHeadRequest -> GetAuditHeadResponse;
    "AuditService/StreamAuditEntries": StreamAuditEntriesRequest -> StreamAuditEntriesResponse;
    "AuditService/ExportAuditEntries": ExportAuditEntriesRequest -> ExportAuditEntriesResponse;
    "DirectoryService/ResolveServer": ResolveServerRequest -> ResolveServerResponse;
    "DirectoryService/GetAccess": GetAccessRequest -> GetAccessResponse;
    "AccessRuleService/CreateAccessRule": CreateAccessRuleRequest -> CreateAccessRuleResponse;
    "AccessRuleService/ListAccessRules": ListAccessRulesRequest -> ListAccessRulesResponse;
    "AccessRuleService/DeleteAccessRule": DeleteAccessRuleRequest -> DeleteAccessRuleResponse;
    "AccessRuleService/ExplainAccess": ExplainAccessRequest -> ExplainAccessResponse;
}

/// The paths of all methods that the protos give this package.
pub(crate) fn all_paths() -> Vec<String> {
    let pool = prost_reflect::DescriptorPool::decode(proto::DESCRIPTOR_SET).unwrap();
    let services = pool
        .services()
        .filter(|service| service.parent_file().package_name() == "trailmesh.tenant.v1");
    let mut paths: Vec<String> = services
        .flat_map(|service| {
            let name = service.full_name().to_owned();
            service
                .methods()
                .map(move |method| format!("/{name}/{}", method.name()))
                .collect::<Vec<_>>()
        })
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_method_of_the_protos_is_known_to_these_tests() {
    let mut known: Vec<String> = PATHS.iter().map(|path| (*path).to_owned()).collect();
    known.sort();
    assert_eq!(known, all_paths());
}
