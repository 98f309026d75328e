# Entra ID takes tokens of
#   @holder@
# that @issuer@ signs for @audience@, as those
# of the application @name@. It compares issuer, subject and audience to the
# letter, and takes minutes to learn of them.

resource "azuread_application" "@label@" {
  display_name = "@name@"
}

resource "azuread_service_principal" "@label@" {
  client_id = azuread_application.@label@.client_id
}
@variable@
resource "azuread_application_federated_identity_credential" "@label@" {
@each@  application_id = azuread_application.@label@.id
  display_name   = "@credential@"
  issuer         = @url@
  subject        = "@subject@"
  audiences      = [@audience_quoted@]
}

# What the workload has in AZURE_CLIENT_ID.
output "@label@_client_id" {
  value = azuread_application.@label@.client_id
}
