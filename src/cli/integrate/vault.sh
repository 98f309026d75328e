# Vault or OpenBao logs in tokens of
#   @holder@
# that @issuer@ signs for @audience@.

# Once for each issuer: leave both out where the mount is there.
vault auth enable -path=@mount@ jwt
vault write auth/@mount@/config \
    oidc_discovery_url=@url@ \
    bound_issuer=@url@

vault write auth/@mount@/role/@name@ - <<'ROLE'
@role@
ROLE
