# AWS gives the role @name@ for tokens of
#   @holder@
# that @issuer@ signs for @audience@.

# One for each account and issuer: leave it out where there is one. AWS needs no
# thumbprints any more, nor does version 6 of the provider.
resource "aws_iam_openid_connect_provider" "agent" {
  url            = @url@
  client_id_list = [@client@]
}

resource "aws_iam_role" "@label@" {
  name = "@name@"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = aws_iam_openid_connect_provider.agent.arn }
      Condition = {
@conditions@
      }
    }]
  })
}

# What the workload has in AWS_ROLE_ARN.
output "@label@_role_arn" {
  value = aws_iam_role.@label@.arn
}
