
resource "google_service_account_iam_member" "@label@" {
  service_account_id = @service_account_id@
  role               = "roles/iam.workloadIdentityUser"
  member             = local.@label@_principal
}
