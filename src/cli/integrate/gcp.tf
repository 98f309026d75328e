# Google Cloud takes tokens of
#   @holder@
# that @issuer@ signs for @audience@.

resource "google_iam_workload_identity_pool" "agent" {
  workload_identity_pool_id = "@pool@"
}

# One for each issuer. For another identity, make the condition wider with ||.
resource "google_iam_workload_identity_pool_provider" "agent" {
  workload_identity_pool_id          = google_iam_workload_identity_pool.agent.workload_identity_pool_id
  workload_identity_pool_provider_id = "@provider@"
  attribute_condition                = @condition@

  attribute_mapping = {
    "google.subject" = @mapping@
  }

  oidc {
    issuer_uri = @url@
@allowed@  }
}

# Whom roles are given to.
locals {
  @label@_principal = "@principal@"
}
@member@