# For Vault Agent. Without remove_jwt_after_reading it would remove the token file.
auto_auth {
  method "jwt" {
    mount_path = @path@

    config = {
      path                     = @file@
      role                     = "@name@"
      remove_jwt_after_reading = false
    }
  }

  sink "file" {
    config = {
      path = "/run/vault-agent/token"
    }
  }
}
