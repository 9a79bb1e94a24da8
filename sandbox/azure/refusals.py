"""Every refusal of the Azure half that does not come from a malformed request, in one place, with its source.

"Docs" is learn.microsoft.com; "recorded" a message text that others recorded from Azure (an issue); "unconfirmed"
marks what no document says and was decided here, always for the stricter reading.
"""

from __future__ import annotations

from dataclasses import dataclass


class AzureError(Exception):
    """An error as Azure returns it. `inner` is Key Vault's second, finer code."""

    def __init__(self, code: str, message: str, status: int = 400, inner: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.inner = inner


@dataclass(frozen=True)
class Refusal:
    """One refusal: its code, its message (a format string), its HTTP status, where it is known from."""

    code: str
    message: str
    status: int
    source: str
    inner: str | None = None

    def error(self, **fields: object) -> AzureError:
        return AzureError(self.code, self.message.format(**fields), self.status, self.inner)


# Entra. The code stands in the text, as Entra writes it.
BAD_SECRET = Refusal(
    "invalid_client",
    "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret "
    "value, not the client secret ID, for a secret added to app '{app}'.",
    401,
    "Docs, entra error codes",
)
NO_APPLICATION = Refusal(
    "unauthorized_client",
    "AADSTS700016: Application with identifier '{app}' was not found in the directory '{tenant}'.",
    400,
    "Docs, entra error codes",
)
NO_TENANT = Refusal(
    "invalid_request",
    "AADSTS90002: Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID.",
    400,
    "Docs, entra error codes",
)
NO_RESOURCE = Refusal(
    "invalid_resource",
    "AADSTS500011: The resource principal named {resource} was not found in the tenant named {tenant}.",
    400,
    "Docs, entra error codes",
)
NO_FEDERATION = Refusal(
    "invalid_client",
    "AADSTS70021: No matching federated identity record found for presented assertion. Assertion Issuer: '{issuer}'. "
    "Assertion Subject: '{subject}'. Assertion Audience: '{audience}'.",
    401,
    "Docs, entra error codes; workload identity federation",
)
BAD_ASSERTION = Refusal(
    "invalid_client",
    "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application "
    "or the assertion failed signature validation. {why}",
    401,
    "Docs, entra error codes",
)
EXPIRED_ASSERTION = Refusal(
    "invalid_client",
    "AADSTS700024: Client assertion is not within its valid time range.",
    401,
    "Docs, entra error codes",
)
BAD_SCOPE = Refusal(
    "invalid_scope",
    "AADSTS1002012: The provided value for scope {scope} is not valid. Client credential flows must have a scope value "
    "with /.default suffixed to the resource identifier (application ID URI).",
    400,
    "Docs, entra error codes",
)
BAD_GRANT = Refusal(
    "unsupported_grant_type", "AADSTS70003: The app requested an unsupported grant type '{grant}'.", 400, "Docs"
)

# Resource Manager
NO_TOKEN = Refusal(
    "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.", 401, "recorded"
)
BAD_TOKEN = Refusal("InvalidAuthenticationToken", "The access token is invalid: {why}.", 401, "recorded")
BAD_AUDIENCE = Refusal(
    "InvalidAuthenticationTokenAudience",
    "The access token has been obtained for wrong audience or resource '{audience}'.",
    401,
    "recorded",
)
BAD_TENANT = Refusal(
    "InvalidAuthenticationTokenTenant",
    "The access token is from the wrong issuer '{issuer}'. It must match the tenant '{tenant}' associated with this "
    "subscription.",
    401,
    "recorded",
)
AUTHORIZATION_FAILED = Refusal(
    "AuthorizationFailed",
    "The client '{client}' with object id '{client}' does not have authorization to perform action '{action}' over "
    "scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
    403,
    "Docs, troubleshoot Azure RBAC",
)
NO_SUBSCRIPTION = Refusal(
    "SubscriptionNotFound", "The subscription '{subscription}' could not be found.", 404, "recorded"
)
NO_GROUP = Refusal("ResourceGroupNotFound", "Resource group '{name}' could not be found.", 404, "Docs, common errors")
NO_RESOURCE_OF_ID = Refusal(
    "ResourceNotFound", "The Resource '{type}/{name}' under resource group '{group}' was not found.", 404, "Docs"
)
NOT_OFFERED = Refusal("NotImplemented", "The sandbox's Azure does not offer {what}.", 501, "the sandbox's own")
NO_PRINCIPAL = Refusal(
    "PrincipalNotFound",
    "Principal {principal} does not exist in the directory {tenant}. Check that you have the correct principal ID. If "
    "you are creating this principal and then immediately assigning a role, this error might be related to a "
    "replication delay. In this case, set the role assignment principalType property to a value, such as "
    "ServicePrincipal, User, or Group. See https://aka.ms/docs-principaltype",
    400,
    "Docs, troubleshoot Azure RBAC",
)
ROLE_ASSIGNMENT_EXISTS = Refusal(
    "RoleAssignmentExists", "The role assignment already exists.", 409, "Docs, troubleshoot Azure RBAC"
)
ROLE_ASSIGNMENT_UPDATE = Refusal(
    "RoleAssignmentUpdateNotPermitted",
    "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.",
    400,
    "Docs, troubleshoot Azure RBAC",
)
NO_ROLE_DEFINITION = Refusal(
    "RoleDefinitionDoesNotExist", "The specified role definition with ID '{role}' does not exist.", 404, "Docs"
)
ROLE_DEFINITION_IN_USE = Refusal(
    "RoleDefinitionHasAssignments", "There are existing role assignments referencing role '{role}'.", 400, "Docs"
)
SECOND_SYSTEM_TOPIC = Refusal(
    "InvalidRequest",
    "Only one system topic is allowed per source. Existing system topic: {topic}.",
    400,
    "recorded: TaoYang-Cloud/azure.policy.monitor#12, MicrosoftDocs/azure-docs PR 97986; the code is unconfirmed",
)
TOPIC_SOURCE_FIXED = Refusal(
    "InvalidRequest",
    "System topic source cannot be modified.",
    400,
    "recorded: Azure/azure-quickstart-templates#13688",
)
GROUP_NOT_EMPTY = Refusal(
    "ResourceGroupDeletionBlocked",
    "Deletion of resource group '{name}' failed as resources with identifiers '{ids}' could not be deleted.",
    409,
    "Docs; Azure deletes what is in the group, the sandbox refuses, which is stricter",
)

# Storage accounts and their key
ACCOUNT_TAKEN = Refusal(
    "StorageAccountAlreadyTaken", "The storage account named {name} is already taken.", 409, "Docs, storage errors"
)
ACCOUNT_NAME = Refusal(
    "AccountNameInvalid",
    "{name} is not a valid storage account name. Storage account name must be between 3 and 24 characters in length "
    "and use numbers and lower-case letters only.",
    400,
    "Docs, resource naming errors",
)
TOO_MANY_IDENTITIES = Refusal(
    "TooManyUserAssignedIdentities",
    "Too many user-assigned identities specified on the resource.",
    400,
    "recorded: hashicorp/terraform-provider-azurerm#19717; the code is unconfirmed",
)
NO_IDENTITY = Refusal(
    "FailedIdentityOperation",
    "Identity operation for resource '{account}' failed with error 'Failed to perform resource identity operation. "
    "The user assigned identity {identity} was not found'.",
    400,
    "recorded",
)
NO_ENCRYPTION_IDENTITY = Refusal(
    "InvalidRequestPropertyValue",
    "Missing pre-requisites to enable EncryptionAtRest/Customer Managed Key for the storage account.",
    400,
    "recorded: Azure/azure-sdk-for-java#38854, #29016; the code is unconfirmed",
)
IDENTITY_NOT_ATTACHED = Refusal(
    "InvalidValuesForRequestParameters",
    "Values for request parameters are invalid: properties.encryption.identity.",
    400,
    "recorded: hashicorp/terraform-provider-azurerm#16374, #19190",
)
KEY_AND_IDENTITY = Refusal(
    "InvalidRequestPropertyValue",
    "The properties 'encryption.identity, encryption.keyvaultproperties' cannot be updated in a single operation.",
    400,
    "recorded: Azure/bicep-registry-modules#4467; the code is unconfirmed",
)
KEY_SOURCE_INCOMPLETE = Refusal(
    "InvalidValuesForRequestParameters",
    "Values for request parameters are invalid: {parameters}.",
    400,
    "recorded",
)
VAULT_POLICY = Refusal(
    "KeyVaultPolicyError",
    "Keyvault policy recoverable is not set.",
    400,
    "recorded: Azure/azure-cli#12346, #17914",
)
VAULT_AUTHENTICATION = Refusal(
    "KeyVaultAuthenticationFailure",
    "The operation failed because of authentication issue on the keyvault. For more information, see - "
    "https://aka.ms/storagekeyvaultaccesspolicy",
    400,
    "recorded: Azure/bicep#16601; MicrosoftDocs/azure-docs#84096 (an expired key)",
)
KEY_NOT_FOUND_AT_SET = Refusal(
    "KeyVaultKeyNotFound", "The key {key} is not found in the key vault {vault}.", 400, "unconfirmed"
)
KEY_TYPE = Refusal(
    "InvalidValuesForRequestParameters",
    "Values for request parameters are invalid: properties.encryption.keyvaultproperties.keyname. Only RSA and RSA-HSM "
    "keys of 2048, 3072 and 4096 bits are supported.",
    400,
    "Docs, customer-managed-keys-overview (the sizes); code and text unconfirmed",
)
VAULT_GONE = Refusal(
    "HttpResourceNotFound",
    "The request url {vault} is not found.",
    404,
    "recorded: Azure/azure-cli#27644",
)
KEY_TYPE_OF_SERVICE = Refusal(
    "KeyTypeCannotBeChanged", "The key type of a service cannot be changed after the account was made.", 400, "Docs"
)

# Key Vault, management
VAULT_EXISTS = Refusal(
    "VaultAlreadyExists",
    "The vault name '{name}' is already in use. Vault names are globally unique so it is possible that the name is "
    "already taken. If you are sure that the vault name was not taken then it is possible that a vault with the same "
    "name was recently deleted but not purged after being placed in a recoverable state. If the vault is in a "
    "recoverable state then the vault will need to be purged before reusing the name.",
    409,
    "Docs, key vault soft delete; recorded: pulumi/pulumi-azure-native#2412",
)
PURGE_PROTECTION_OFF = Refusal(
    "BadRequest",
    'The property "enablePurgeProtection" cannot be set to false. Enabling the purge protection for a vault is an '
    "irreversible action.",
    400,
    "recorded: pulumi/pulumi-azure-native#4742, Azure/azure-cli#29115",
)
PURGE_REFUSED = Refusal(
    "MethodNotAllowed",
    "Operation 'DeletedVaultPurge' is not allowed.",
    405,
    "Docs, key vault soft delete: purge protection",
)
VAULT_RESTS_ON = Refusal("BadRequest", "{why}", 400, "Docs, keyvault/vaults")

# Key Vault, data plane
UNAUTHORIZED = Refusal("Unauthorized", "AKV10000: Request is missing a Bearer or PoP token.", 401, "Docs")
UNAUTHORIZED_TOKEN = Refusal("Unauthorized", "AKV10022: Invalid audience or token: {why}.", 401, "Docs")
FORBIDDEN_BY_RBAC = Refusal(
    "Forbidden",
    "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role "
    "definitions were changed recently, please observe propagation time.\r\nCaller: appid={app};oid={principal}\r\n"
    "Action: '{action}'\r\nResource: '{resource}'\r\nAssignment: (not found)\r\n",
    403,
    "Docs, key vault RBAC guide; recorded",
    "ForbiddenByRbac",
)
KEY_NOT_FOUND = Refusal(
    "KeyNotFound",
    "A key with (name/id) {name} was not found in this key vault. If you recently deleted this key you may be able to "
    "recover it using the correct recovery command.",
    404,
    "recorded",
)
SECRET_NOT_FOUND = Refusal(
    "SecretNotFound",
    "A secret with (name/id) {name} was not found in this key vault. If you recently deleted this secret you may be "
    "able to recover it using the correct recovery command.",
    404,
    "recorded",
)
KEY_DISABLED = Refusal(
    "Forbidden", "Operation {operation} is not allowed on a disabled key.", 403, "recorded", "KeyDisabled"
)
SECRET_DISABLED = Refusal(
    "Forbidden", "Operation get is not allowed on a disabled secret.", 403, "recorded", "SecretDisabled"
)
KEY_EXPIRED = Refusal(
    "Forbidden",
    "Operation {operation} is not allowed on an expired key.",
    403,
    "Docs, about keys: date-time controlled operations let decrypt and unwrap through",
    "KeyExpired",
)
KEY_NOT_YET_VALID = Refusal(
    "Forbidden", "Operation {operation} is not allowed on a key before its time.", 403, "Docs", "KeyNotYetValid"
)
KEY_OPERATION = Refusal(
    "Forbidden", "Operation {operation} is not permitted on this key.", 403, "recorded", "KeyOperationForbidden"
)
OBJECT_IS_DELETED = Refusal(
    "Conflict",
    "{what} {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the "
    "{what} can only be recovered or purged.",
    409,
    "recorded: hashicorp/terraform#30068",
    "ObjectIsDeletedButRecoverable",
)
OBJECT_PURGE = Refusal(
    "Forbidden",
    'Operation "purge" is not enabled for this vault.',
    403,
    "Docs, key vault soft delete: purge protection; unconfirmed text",
)
BAD_PARAMETER = Refusal("BadParameter", "{why}", 400, "Docs, key vault REST")
NEEDS_PREMIUM = Refusal(
    "BadParameter", "Key type RSA-HSM is not supported in a vault of the standard SKU.", 400, "Docs; text unconfirmed"
)
BAD_BLOB = Refusal(
    "BadParameter",
    "The key transfer blob cannot be imported: {why}.",
    400,
    "Docs, byok-specification (the format); text unconfirmed",
)

# Blobs under a key that is lost
KEY_LOST = Refusal(
    "KeyVaultEncryptionKeyNotFound",
    "The key vault key is not found to unwrap the encryption key.",
    403,
    "recorded: ssc-sp/datahub-portal#266; Docs, blob error codes",
)
VAULT_LOST = Refusal(
    "KeyVaultVaultNotFound", "The key vault is not found for encryption.", 403, "Docs, blob service error codes"
)
IDENTITY_LOST = Refusal(
    "KeyVaultAccessTokenCannotBeAcquired",
    "The key vault access token cannot be acquired for encryption.",
    403,
    "Docs, blob service error codes",
)

# Blobs and queues, otherwise
NO_AUTHENTICATION = Refusal(
    "NoAuthenticationInformation",
    "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
    401,
    "Docs, storage error codes",
)
BAD_AUTHENTICATION = Refusal(
    "InvalidAuthenticationInfo", "Server failed to authenticate the request. {why}.", 401, "Docs, storage error codes"
)
SAS_FAILED = Refusal(
    "AuthenticationFailed",
    "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly "
    "including the signature. {why}",
    403,
    "Docs, storage error codes",
)
PERMISSION_MISMATCH = Refusal(
    "AuthorizationPermissionMismatch",
    "This request is not authorized to perform this operation using this permission.",
    403,
    "Docs, storage error codes",
)
NETWORK_CLOSED = Refusal(
    "AuthorizationFailure", "This request is not authorized to perform this operation.", 403, "Docs, storage firewalls"
)
SHARED_KEY = Refusal(
    "KeyBasedAuthenticationNotPermitted",
    "Key based authentication is not permitted on this storage account.",
    403,
    "Docs, prevent Shared Key authorization",
)
NO_CONTAINER = Refusal("ContainerNotFound", "The specified container does not exist.", 404, "Docs")
CONTAINER_EXISTS = Refusal("ContainerAlreadyExists", "The specified container already exists.", 409, "Docs")
CONTAINER_BEING_DELETED = Refusal(
    "ContainerBeingDeleted",
    "The specified container is being deleted. Try operation later.",
    409,
    "Docs, Delete Container: at least 30 seconds",
)
NO_QUEUE = Refusal("QueueNotFound", "The specified queue does not exist.", 404, "Docs")
NO_ACCOUNT = Refusal("ResourceNotFound", "The specified resource does not exist.", 404, "the host has no DNS name")
UNSUPPORTED_QUERY = Refusal(
    "InvalidQueryParameterValue", "Value for one of the query parameters is invalid.", 400, "Docs"
)
NOT_IN_TABLE = Refusal("NotImplemented", "The sandbox's gate does not offer {what}.", 501, "the sandbox's own")
BAD_NAME = Refusal("InvalidResourceName", "The specified resource name contains invalid characters.", 400, "Docs")
OUT_OF_RANGE = Refusal("OutOfRangeInput", "One of the request inputs is out of range.", 400, "Docs")
METADATA_TOO_LARGE = Refusal(
    "MetadataTooLarge", "The size of the specified metadata exceeds the maximum size permitted.", 400, "Docs"
)
COPY_SOURCE = Refusal("CannotVerifyCopySource", "{why}", 403, "Docs, copy blob from URL: the source refuses the caller")
COPY_TOO_LARGE = Refusal(
    "CopySourceTooLarge",
    "The source blob is larger than 256 MiB.",
    400,
    "Docs, Copy Blob From URL: 256 MiB; the code is unconfirmed",
)
