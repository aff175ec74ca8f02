//! The rules: users, roles, the switch, and the revision; how operations change them, and what they answer.

use std::sync::Arc;

use imbl::OrdMap;

use crate::api::Message;
use crate::api::authpb::{self, Permission};
use crate::api::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest,
};
use crate::base::digest::bytes_of_base64;
use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Result};
use crate::store::auth::Denial;
use crate::store::auth::grant::{Access, Grant, is_range};
use crate::store::auth::sessions::Session;
use crate::store::backend::{SideChange, Space};

/// The user, and the role, that may do everything.
const ROOT: &str = "root";
/// The revision of rules that were never changed; etcd's.
const FIRST_REVISION: u64 = 1;
/// The entry of the switch.
const ENABLED: &[u8] = b"authEnabled";
/// The entry of the revision.
const REVISION: &[u8] = b"authRevision";

/// A user.
#[derive(Debug)]
pub struct User {
    /// As it is stored.
    stored: Vec<u8>,
    message: authpb::User,
    grant: Grant,
    /// The revision of the rules since which its credentials are what they are, as far as this process knows.
    since: u64,
}

impl User {
    /// As it is stored.
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// Names of its roles, in order.
    pub fn roles(&self) -> &[String] {
        &self.message.roles
    }

    /// The bcrypt hash of its password; none when it signs in with a certificate only.
    pub fn password_hash(&self) -> Option<&[u8]> {
        let without = self.message.options.as_ref().is_some_and(|options| options.no_password);
        (!without).then_some(&*self.message.password)
    }

    fn is_root(&self) -> bool {
        self.message.roles.iter().any(|role| role == ROOT)
    }
}

/// A role.
#[derive(Debug)]
pub struct Role {
    stored: Vec<u8>,
    message: authpb::Role,
}

impl Role {
    /// As it is stored.
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// What it may do, in order of keys.
    pub fn permissions(&self) -> &[Permission] {
        &self.message.key_permission
    }
}

/// An entry that became different: what was stored and what is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The change to store.
    pub change: SideChange,
    /// What was there.
    pub before: Option<Vec<u8>>,
}

type Edits = std::result::Result<Vec<Edit>, Denial>;

/// All rules. A copy is free, and stays as it was.
#[derive(Clone, Debug)]
pub struct Rules {
    enabled: bool,
    revision: u64,
    /// Whether the two were ever stored.
    is_stored: (bool, bool),
    /// Since when authentication is on, as far as this process knows.
    since: u64,
    users: OrdMap<String, Arc<User>>,
    roles: OrdMap<String, Arc<Role>>,
}

impl Default for Rules {
    fn default() -> Self {
        let (users, roles) = (OrdMap::new(), OrdMap::new());
        Rules { enabled: false, revision: FIRST_REVISION, is_stored: (false, false), since: 0, users, roles }
    }
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

impl Rules {
    /// The rules that are stored.
    pub fn load(switch: Entries, users: Entries, roles: Entries) -> Result<Self> {
        let mut rules = Rules::default();
        for (key, value) in switch {
            match (&*key, &*value) {
                (ENABLED, [switch @ (0 | 1)]) => (rules.enabled, rules.is_stored.0) = (*switch == 1, true),
                (REVISION, number) => {
                    let number = number.try_into().map_err(|_| damaged("the revision of the rules", "revision"))?;
                    (rules.revision, rules.is_stored.1) = (u64::from_be_bytes(number), true);
                }
                (ENABLED, _) => return Err(damaged("the switch of authentication", "switch")),
                // Of a later version, kept where it is.
                _ => {}
            }
        }
        for (key, stored) in roles {
            let message = authpb::Role::decode(&*stored).map_err(|error| damaged("a role", "role").source(error))?;
            let name = String::from_utf8(key).map_err(|error| damaged("a role", "name").source(error))?;
            rules.roles.insert(name, Arc::new(Role { stored, message }));
        }
        for (key, stored) in users {
            let message = authpb::User::decode(&*stored).map_err(|error| damaged("a user", "user").source(error))?;
            let name = String::from_utf8(key).map_err(|error| damaged("a user", "name").source(error))?;
            let grant = rules.granted(&message);
            rules.users.insert(name, Arc::new(User { stored, message, grant, since: 0 }));
        }
        Ok(rules)
    }

    /// Whether authentication is on.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The number of their last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A user.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|user| &**user)
    }

    /// A role.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name).map(|role| &**role)
    }

    /// Names of users, in order.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// Names of roles, in order.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// Whether a session that began then still stands for its user.
    pub fn honours(&self, session: &Session) -> bool {
        let user = self.users.get(&*session.user);
        session.since >= self.since && user.is_some_and(|user| session.since >= user.since)
    }

    /// What is stored: entries by table and key.
    pub fn stored(&self) -> Vec<(Space, Vec<u8>, Vec<u8>)> {
        let users = self.users.iter().map(|(name, user)| (Space::User, name.clone().into(), user.stored.clone()));
        let roles = self.roles.iter().map(|(name, role)| (Space::Role, name.clone().into(), role.stored.clone()));
        let switch = self.is_stored.0.then(|| (Space::Auth, ENABLED.to_vec(), vec![u8::from(self.enabled)]));
        let revision = self.is_stored.1.then(|| (Space::Auth, REVISION.to_vec(), self.revision.to_be_bytes().to_vec()));
        switch.into_iter().chain(revision).chain(users).chain(roles).collect()
    }

    /// Switches authentication on.
    pub fn enable(&mut self) -> Edits {
        if self.enabled {
            return Ok(vec![]);
        }
        let root = self.users.get(ROOT).ok_or(Denial::RootUserMissing)?;
        if !root.is_root() {
            return Err(Denial::RootRoleMissing);
        }
        self.since = self.revision;
        let switch = self.switch(true);
        // So that it is stored: the number stays.
        let revision = self.number(self.revision);
        Ok(vec![switch, revision])
    }

    /// Switches authentication off.
    pub fn disable(&mut self) -> Edits {
        if !self.enabled {
            return Ok(vec![]);
        }
        let switch = self.switch(false);
        self.since = self.revision + 1;
        Ok(self.changed(vec![switch]))
    }

    /// Adds a user. The request holds the hash of its password.
    pub fn add_user(&mut self, request: &AuthUserAddRequest) -> Edits {
        if request.name.is_empty() {
            return Err(Denial::UserEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(Denial::UserExists);
        }
        let options = request.options.unwrap_or_default();
        let password = if options.no_password { vec![] } else { hash_of(&request.hashed_password)? };
        let name = request.name.clone().into_bytes().into();
        let user = authpb::User { name, password: password.into(), roles: vec![], options: Some(options) };
        let edit = self.put_user(&request.name, user, Some(self.revision + 1));
        Ok(self.changed(vec![edit]))
    }

    /// Removes a user.
    pub fn delete_user(&mut self, name: &str) -> Edits {
        if self.enabled && name == ROOT {
            return Err(Denial::InvalidManagement);
        }
        let user = self.users.remove(name).ok_or(Denial::UserNotFound)?;
        let edit = gone(Space::User, name, &user.stored);
        Ok(self.changed(vec![edit]))
    }

    /// Gives a user another password. The request holds its hash.
    pub fn change_password(&mut self, request: &AuthUserChangePasswordRequest) -> Edits {
        let mut user = self.message_of(&request.name)?;
        if !user.options.is_some_and(|options| options.no_password) {
            user.password = hash_of(&request.hashed_password)?.into();
        }
        let edit = self.put_user(&request.name, user, Some(self.revision + 1));
        Ok(self.changed(vec![edit]))
    }

    /// Gives a user a role.
    pub fn grant_role(&mut self, name: &str, role: &str) -> Edits {
        let mut user = self.message_of(name)?;
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(Denial::RoleNotFound);
        }
        if user.roles.iter().any(|granted| granted == role) {
            return Ok(vec![]);
        }
        user.roles.push(role.to_owned());
        user.roles.sort_unstable();
        let edit = self.put_user(name, user, None);
        Ok(self.changed(vec![edit]))
    }

    /// Takes a role from a user.
    pub fn revoke_role(&mut self, name: &str, role: &str) -> Edits {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(Denial::InvalidManagement);
        }
        let mut user = self.message_of(name)?;
        let before = user.roles.len();
        user.roles.retain(|granted| granted != role);
        if user.roles.len() == before {
            return Err(Denial::RoleNotGranted);
        }
        let edit = self.put_user(name, user, None);
        Ok(self.changed(vec![edit]))
    }

    /// Adds a role.
    pub fn add_role(&mut self, name: &str) -> Edits {
        if name.is_empty() {
            return Err(Denial::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(Denial::RoleExists);
        }
        let role = authpb::Role { name: name.to_owned().into_bytes().into(), key_permission: vec![] };
        let edit = self.put_role(name, role);
        Ok(self.changed(vec![edit]))
    }

    /// Removes a role, and takes it from everybody who has it.
    pub fn delete_role(&mut self, name: &str) -> Edits {
        if self.enabled && name == ROOT {
            return Err(Denial::InvalidManagement);
        }
        let role = self.roles.remove(name).ok_or(Denial::RoleNotFound)?;
        let mut edits = vec![gone(Space::Role, name, &role.stored)];
        for user in self.holders(name) {
            let mut message = self.message_of(&user)?;
            message.roles.retain(|granted| granted != name);
            edits.push(self.put_user(&user, message, None));
        }
        Ok(self.changed(edits))
    }

    /// Gives a role a permission, or another kind of one that it has for the same range.
    pub fn grant_permission(&mut self, request: &AuthRoleGrantPermissionRequest) -> Edits {
        let permission = request.perm.as_ref().ok_or(Denial::PermissionNotGiven)?;
        if !is_range(&permission.key, &permission.range_end) {
            return Err(Denial::InvalidManagement);
        }
        let mut role = self.roles.get(&request.name).ok_or(Denial::RoleNotFound)?.message.clone();
        let same = |other: &&mut Permission| other.key == permission.key && other.range_end == permission.range_end;
        match role.key_permission.iter_mut().find(same) {
            Some(present) => present.perm_type = permission.perm_type,
            None => role.key_permission.push(permission.clone()),
        }
        role.key_permission.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(self.change_role(&request.name, role))
    }

    /// Takes a permission from a role.
    pub fn revoke_permission(&mut self, request: &AuthRoleRevokePermissionRequest) -> Edits {
        let mut role = self.roles.get(&request.role).ok_or(Denial::RoleNotFound)?.message.clone();
        let before = role.key_permission.len();
        role.key_permission.retain(|other| other.key != request.key || other.range_end != request.range_end);
        if role.key_permission.len() == before {
            return Err(Denial::PermissionNotGranted);
        }
        Ok(self.change_role(&request.role, role))
    }

    fn change_role(&mut self, name: &str, role: authpb::Role) -> Vec<Edit> {
        let edit = self.put_role(name, role);
        for holder in self.holders(name) {
            let Some(user) = self.users.get(&holder) else { continue };
            let grant = self.granted(&user.message);
            let (stored, message, since) = (user.stored.clone(), user.message.clone(), user.since);
            self.users.insert(holder, Arc::new(User { stored, message, grant, since }));
        }
        self.changed(vec![edit])
    }

    /// Who has a role.
    fn holders(&self, role: &str) -> Vec<String> {
        let has = |user: &User| user.message.roles.iter().any(|granted| granted == role);
        self.users.iter().filter(|(_, user)| has(user)).map(|(name, _)| name.clone()).collect()
    }

    fn message_of(&self, user: &str) -> std::result::Result<authpb::User, Denial> {
        self.users.get(user).map(|user| user.message.clone()).ok_or(Denial::UserNotFound)
    }

    fn granted(&self, user: &authpb::User) -> Grant {
        let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
        Grant::of(roles.flat_map(|role| &role.message.key_permission))
    }

    /// Stores a user; with other credentials since the revision that is given.
    fn put_user(&mut self, name: &str, message: authpb::User, since: Option<u64>) -> Edit {
        let (stored, grant) = (message.encode_to_vec(), self.granted(&message));
        let before = self.users.get(name);
        let since = since.or(before.map(|user| user.since)).unwrap_or_default();
        let edit = edit(Space::User, name, stored.clone(), before.map(|user| user.stored.clone()));
        self.users.insert(name.to_owned(), Arc::new(User { stored, message, grant, since }));
        edit
    }

    fn put_role(&mut self, name: &str, message: authpb::Role) -> Edit {
        let stored = message.encode_to_vec();
        let before = self.roles.get(name).map(|role| role.stored.clone());
        let edit = edit(Space::Role, name, stored.clone(), before);
        self.roles.insert(name.to_owned(), Arc::new(Role { stored, message }));
        edit
    }

    fn switch(&mut self, enabled: bool) -> Edit {
        (self.enabled, self.is_stored.0) = (enabled, true);
        let change = SideChange { space: Space::Auth, key: ENABLED.to_vec(), value: Some(vec![u8::from(enabled)]) };
        Edit { change, before: None }
    }

    fn number(&mut self, revision: u64) -> Edit {
        (self.revision, self.is_stored.1) = (revision, true);
        let value = Some(revision.to_be_bytes().to_vec());
        Edit { change: SideChange { space: Space::Auth, key: REVISION.to_vec(), value }, before: None }
    }

    /// The rules have another revision now.
    fn changed(&mut self, mut edits: Vec<Edit>) -> Vec<Edit> {
        edits.push(self.number(self.revision + 1));
        debug_assert!(!self.enabled || self.users.get(ROOT).is_some_and(|root| root.is_root()), "root is protected");
        edits
    }

    /// What somebody may do who asks at these rules; `user` is empty for nobody. `revision` is that of the rules at which it
    /// was made sure who asks.
    pub fn subject<'a>(&'a self, user: &'a str, revision: u64) -> Subject<'a> {
        Subject { rules: self, user, revision }
    }
}

/// Somebody who asks.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    rules: &'a Rules,
    user: &'a str,
    revision: u64,
}

impl Subject<'_> {
    /// Whether everything is allowed to everybody.
    pub fn is_free(&self) -> bool {
        !self.rules.enabled
    }

    fn known(&self) -> std::result::Result<&User, Denial> {
        if self.user.is_empty() {
            return Err(Denial::UserEmpty);
        }
        self.rules.user(self.user).ok_or(Denial::PermissionDenied)
    }

    /// Whether it is anybody.
    pub fn is_somebody(&self) -> std::result::Result<(), Denial> {
        if self.is_free() { Ok(()) } else { self.known().map(drop) }
    }

    /// Whether it is this user.
    pub fn is(&self, name: &str) -> bool {
        self.is_free() || self.user == name
    }

    /// Whether it has this role.
    pub fn has(&self, role: &str) -> bool {
        self.is_free() || self.known().is_ok_and(|user| user.message.roles.iter().any(|granted| granted == role))
    }

    /// Whether it administers.
    pub fn administers(&self) -> std::result::Result<(), Denial> {
        if self.is_free() || self.known()?.is_root() { Ok(()) } else { Err(Denial::PermissionDenied) }
    }

    /// Whether it may access all keys of a range so.
    pub fn may(&self, access: Access, key: &[u8], range_end: &[u8]) -> std::result::Result<(), Denial> {
        if self.is_free() {
            return Ok(());
        }
        let user = self.known();
        if user != Err(Denial::UserEmpty) && self.revision < self.rules.revision {
            return Err(Denial::OldRevision);
        }
        let user = user?;
        let allowed = user.is_root() || user.grant.allows(access, key, range_end);
        if allowed { Ok(()) } else { Err(Denial::PermissionDenied) }
    }
}

impl PartialEq for User {
    fn eq(&self, other: &User) -> bool {
        self.stored == other.stored
    }
}

impl PartialEq for Role {
    fn eq(&self, other: &Role) -> bool {
        self.stored == other.stored
    }
}

/// The hash of a password, as requests hold it.
fn hash_of(base64: &str) -> std::result::Result<Vec<u8>, Denial> {
    bytes_of_base64(base64).ok_or(Denial::PasswordHash)
}

fn edit(space: Space, name: &str, stored: Vec<u8>, before: Option<Vec<u8>>) -> Edit {
    Edit { change: SideChange { space, key: name.as_bytes().to_vec(), value: Some(stored) }, before }
}

fn gone(space: Space, name: &str, stored: &[u8]) -> Edit {
    Edit { change: SideChange { space, key: name.as_bytes().to_vec(), value: None }, before: Some(stored.to_vec()) }
}

fn damaged(what: &str, part: &str) -> Error {
    Error::damaged(format!("{what} that is stored cannot be read: its {part} is none")).hint(HINT_MEMBER_DAMAGED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::authpb::UserAddOptions;
    use crate::api::authpb::permission::Type;
    use crate::base::digest::base64;

    fn add(rules: &mut Rules, name: &str) -> Edits {
        let request = AuthUserAddRequest {
            name: name.to_owned(),
            hashed_password: base64(b"hash"),
            ..AuthUserAddRequest::default()
        };
        rules.add_user(&request)
    }

    fn grant(rules: &mut Rules, role: &str, kind: Type, key: &str, range_end: &str) -> Edits {
        let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
        let perm = Some(Permission { perm_type: kind as i32, key, range_end });
        rules.grant_permission(&AuthRoleGrantPermissionRequest { name: role.to_owned(), perm })
    }

    /// Rules with root, and with ann who is a reader of [a, c), switched on.
    fn rules() -> Rules {
        let mut rules = Rules::default();
        assert_eq!(rules.enable(), Err(Denial::RootUserMissing));
        add(&mut rules, "root").unwrap();
        assert_eq!(rules.enable(), Err(Denial::RootRoleMissing));
        rules.grant_role("root", "root").unwrap();
        add(&mut rules, "ann").unwrap();
        rules.add_role("reader").unwrap();
        rules.grant_role("ann", "reader").unwrap();
        grant(&mut rules, "reader", Type::Read, "a", "c").unwrap();
        assert_eq!(rules.subject("", 0).may(Access::Write, b"x", b""), Ok(()), "it is off");
        let revision = rules.revision();
        rules.enable().unwrap();
        assert_eq!(rules.revision(), revision, "switching on is no change of the rules");
        rules
    }

    fn session(rules: &Rules, user: &str) -> Session {
        Session { user: user.into(), since: rules.revision() }
    }

    /// What is stored after the edits, beside what was.
    fn stored(rules: &Rules) -> Rules {
        let of = |wanted: Space| {
            let entries = rules.stored().into_iter().filter(move |(space, ..)| *space == wanted);
            entries.map(|(_, key, value)| (key, value)).collect::<Vec<_>>()
        };
        Rules::load(of(Space::Auth), of(Space::User), of(Space::Role)).unwrap()
    }

    #[test]
    fn rules_follow_roles_at_once() {
        let mut rules = rules();
        let may = |rules: &Rules, access, key: &[u8]| rules.subject("ann", rules.revision()).may(access, key, b"");
        assert_eq!(may(&rules, Access::Read, b"b"), Ok(()));
        assert_eq!(may(&rules, Access::Write, b"b"), Err(Denial::PermissionDenied));
        grant(&mut rules, "reader", Type::Readwrite, "a", "c").unwrap();
        assert_eq!(may(&rules, Access::Write, b"b"), Ok(()), "the same range with another kind");
        assert_eq!(rules.role("reader").unwrap().permissions().len(), 1);
        let revision = rules.revision();
        assert_eq!(rules.grant_role("ann", "reader"), Ok(vec![]));
        assert_eq!(rules.revision(), revision, "nothing became different");
        assert_eq!(rules.subject("ann", revision - 1).may(Access::Read, b"b", b""), Err(Denial::OldRevision));
        assert_eq!(rules.subject("", 0).may(Access::Read, b"b", b""), Err(Denial::UserEmpty));
        assert_eq!(rules.subject("eve", revision).may(Access::Read, b"b", b""), Err(Denial::PermissionDenied));
        assert_eq!(rules.subject("root", revision).may(Access::Write, b"\0", b"\0"), Ok(()));
        let again = stored(&rules);
        assert!(again.is_enabled() && again.revision() == revision);
        assert_eq!(may(&again, Access::Write, b"b"), Ok(()));
        let edits = rules.delete_role("reader").unwrap();
        assert_eq!(edits.len(), 3, "the role, who had it, the revision");
        assert_eq!(may(&rules, Access::Read, b"b"), Err(Denial::PermissionDenied));
        assert!(rules.user("ann").unwrap().roles().is_empty());
    }

    #[test]
    fn root_is_protected_as_long_as_it_is_needed() {
        let mut rules = rules();
        assert_eq!(rules.delete_user("root"), Err(Denial::InvalidManagement));
        assert_eq!(rules.delete_role("root"), Err(Denial::InvalidManagement));
        assert_eq!(rules.revoke_role("root", "root"), Err(Denial::InvalidManagement));
        assert_eq!(rules.subject("ann", rules.revision()).administers(), Err(Denial::PermissionDenied));
        assert_eq!(rules.subject("", 0).administers(), Err(Denial::UserEmpty));
        assert_eq!(rules.subject("root", 0).administers(), Ok(()), "whoever administers may be late");
        let revision = rules.revision();
        rules.disable().unwrap();
        assert_eq!(rules.revision(), revision + 1);
        assert_eq!(rules.disable(), Ok(vec![]));
        rules.delete_user("root").unwrap();
        assert_eq!(rules.enable(), Err(Denial::RootUserMissing));
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let mut rules = rules();
        let before = (rules.stored(), rules.revision());
        let change = |hashed_password: &str, name: &str| AuthUserChangePasswordRequest {
            name: name.to_owned(),
            hashed_password: hashed_password.to_owned(),
            ..AuthUserChangePasswordRequest::default()
        };
        let revoke = |role: &str, key: &str| AuthRoleRevokePermissionRequest {
            role: role.to_owned(),
            key: key.to_owned().into(),
            ..AuthRoleRevokePermissionRequest::default()
        };
        for (outcome, denial) in [
            (add(&mut rules, ""), Denial::UserEmpty),
            (add(&mut rules, "ann"), Denial::UserExists),
            (rules.delete_user("eve"), Denial::UserNotFound),
            (rules.change_password(&change("", "eve")), Denial::UserNotFound),
            (rules.change_password(&change("no base64!", "ann")), Denial::PasswordHash),
            (rules.grant_role("eve", "reader"), Denial::UserNotFound),
            (rules.grant_role("ann", "writer"), Denial::RoleNotFound),
            (rules.revoke_role("eve", "reader"), Denial::UserNotFound),
            (rules.revoke_role("ann", "root"), Denial::RoleNotGranted),
            (rules.add_role(""), Denial::RoleEmpty),
            (rules.add_role("reader"), Denial::RoleExists),
            (rules.delete_role("writer"), Denial::RoleNotFound),
            (rules.grant_permission(&AuthRoleGrantPermissionRequest::default()), Denial::PermissionNotGiven),
            (grant(&mut rules, "writer", Type::Read, "a", ""), Denial::RoleNotFound),
            (grant(&mut rules, "reader", Type::Read, "", ""), Denial::InvalidManagement),
            (grant(&mut rules, "reader", Type::Read, "b", "b"), Denial::InvalidManagement),
            (rules.revoke_permission(&revoke("writer", "a")), Denial::RoleNotFound),
            (rules.revoke_permission(&revoke("reader", "a")), Denial::PermissionNotGranted),
        ] {
            assert_eq!(outcome, Err(denial));
        }
        assert_eq!((rules.stored(), rules.revision()), before);
    }

    #[test]
    fn a_session_ends_with_its_password_its_user_and_the_switch() {
        let mut rules = rules();
        let (ann, root) = (session(&rules, "ann"), session(&rules, "root"));
        rules.add_role("other").unwrap();
        assert!(rules.honours(&ann) && rules.honours(&root) && !rules.honours(&session(&rules, "eve")));
        let hashed_password = base64(b"another");
        let name = "ann".to_owned();
        let request =
            AuthUserChangePasswordRequest { name, hashed_password, ..AuthUserChangePasswordRequest::default() };
        rules.change_password(&request).unwrap();
        assert!(!rules.honours(&ann) && rules.honours(&session(&rules, "ann")) && rules.honours(&root));
        let ann = session(&rules, "ann");
        rules.delete_user("ann").unwrap();
        assert!(!rules.honours(&ann));
        add(&mut rules, "ann").unwrap();
        assert!(!rules.honours(&ann), "another user of that name");
        rules.disable().unwrap();
        rules.enable().unwrap();
        assert!(!rules.honours(&root) && rules.honours(&session(&rules, "root")));
    }

    #[test]
    fn fields_of_a_later_version_survive_until_their_entry_is_changed() {
        let role = authpb::Role { name: "reader".into(), key_permission: vec![] };
        let strange = [role.encode_to_vec(), vec![0x7a, 1, b'x']].concat();
        let entries = |key: &str, value: &[u8]| vec![(key.as_bytes().to_vec(), value.to_vec())];
        let options = Some(UserAddOptions { no_password: true });
        let ann = authpb::User { name: "ann".into(), roles: vec!["reader".into()], options, ..authpb::User::default() };
        let ann = entries("ann", &ann.encode_to_vec());
        let mut rules = Rules::load(vec![], ann.clone(), entries("reader", &strange)).unwrap();
        assert_eq!(rules.user("ann").unwrap().password_hash(), None);
        let others = rules.stored();
        assert_eq!(others.len(), 2, "neither switch nor revision was ever stored");
        rules.add_role("other").unwrap();
        assert!(rules.stored().contains(&(Space::Role, b"reader".to_vec(), strange.clone())));
        for (switch, users, roles) in [
            (entries("authEnabled", &[2]), vec![], vec![]),
            (entries("authRevision", &[1; 7]), vec![], vec![]),
            (vec![], entries("ann", &[0xff]), vec![]),
            (vec![], vec![(vec![0xff], vec![])], vec![]),
            (vec![], vec![], entries("reader", &[0xff])),
            (vec![], vec![], vec![(vec![0xff], vec![])]),
        ] {
            let error = Rules::load(switch, users, roles).unwrap_err();
            assert!(error.chain().contains("cannot be read"), "{}", error.chain());
        }
    }
}
