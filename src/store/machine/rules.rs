//! Operations on users and roles, one by one.

use crate::api::holdfast::v1::Authenticate;
use crate::store::auth::Denial;
use crate::store::auth::rules::{Edit, Rules};
use crate::store::machine::command::Operation;

/// Carries an operation out; what became different. The caller has asked whether whoever wants it may.
pub(super) fn change(rules: &mut Rules, operation: &Operation) -> Result<Vec<Edit>, Denial> {
    match operation {
        Operation::AuthEnable(_) => rules.enable(),
        Operation::AuthDisable(_) => rules.disable(),
        Operation::UserAdd(request) => rules.add_user(request),
        Operation::UserDelete(request) => rules.delete_user(&request.name),
        Operation::UserChangePassword(request) => rules.change_password(request),
        Operation::UserGrantRole(request) => rules.grant_role(&request.user, &request.role),
        Operation::UserRevokeRole(request) => rules.revoke_role(&request.name, &request.role),
        Operation::RoleAdd(request) => rules.add_role(&request.name),
        Operation::RoleDelete(request) => rules.delete_role(&request.role),
        Operation::RoleGrantPermission(request) => rules.grant_permission(request),
        Operation::RoleRevokePermission(request) => rules.revoke_permission(request),
        other => unreachable!("{other:?} is not about users and roles"),
    }
}

/// Makes sure that the password that was compared is still the present one; the revision of the rules at which that is so.
pub(super) fn authenticate(rules: &Rules, request: &Authenticate) -> Result<u64, Denial> {
    if !rules.is_enabled() {
        return Err(Denial::NotEnabled);
    }
    if request.revision == rules.revision() { Ok(request.revision) } else { Err(Denial::OldRevision) }
}
